"""TensorRT 8's own int8 calibration, where no file holds the ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from handlers.engines import versions
from handlers.engines.build import Job


def calibrator(trt: Any, job: Job) -> Any:
    """A calibrator over the arrays of an ``.npz`` file, named ``INPUT/0``, ``INPUT/1``, ..."""
    import torch

    base = versions.dialect(trt).calibrator_class()  # type: ignore[union-attr]
    names = list(job.profiles)
    batch = job.profiles[names[0]][1][0]
    with np.load(job.calibration) as data:
        count = len(data.files) // len(names)
        rows = [{n: data[f"{n}/{i}"] for n in names} for i in range(count)]

    class Calibrator(base):  # type: ignore[misc, valid-type]
        """Hands the inputs over in whole batches; the last one is filled up from the first."""

        def __init__(self) -> None:
            base.__init__(self)
            self._next = 0
            self._held: dict[str, torch.Tensor] = {}

        def get_batch_size(self) -> int:
            return int(batch)

        def get_batch(self, wanted: Sequence[str]) -> list[int] | None:
            if self._next >= len(rows):
                return None
            chosen = [rows[(self._next + i) % len(rows)] for i in range(batch)]
            self._next += batch
            for name in names:
                stacked = np.concatenate([row[name] for row in chosen]).astype(np.float32)
                self._held[name] = torch.from_numpy(stacked).cuda()
            torch.cuda.synchronize()
            return [int(self._held[name].data_ptr()) for name in wanted]

        def read_calibration_cache(self) -> bytes | None:
            return None

        def write_calibration_cache(self, cache: object) -> None:
            """Not kept: the engine cache is keyed by the calibration inputs themselves."""

    return Calibrator()
