"""Builds one engine in its own process, where a crash or a lack of memory harms nothing else.

    python -m repack.backends.tensorrt.job JOB.json

Prints one JSON line: ``{"seconds": ..., "wished": ...}`` (``build.Built``), or
``{"error": "one line"}``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from handlers.engines import build, versions
from handlers.errors import KitError

CALIBRATION_CACHE = "calibration.cache"


def main(path: Path) -> int:
    """Does the job in ``path``; 0 if the engine was written."""
    job = json.loads(path.read_text(encoding="utf-8"))
    recipe = build.Recipe(
        job["precision"],
        {k: tuple(tuple(s) for s in v) for k, v in job["profiles"].items()},  # type: ignore[misc]
        job["level"],
        job["workspace"],
        versions.Int8.read(Path(job["ranges"]) if job["ranges"] else None),
    )
    begin = time.monotonic()
    try:
        engine, wished = _engine(job, recipe)
    except KitError as e:
        print(json.dumps({"error": str(e)}))
        return 1
    except Exception as e:  # torch2trt and TensorRT raise many types for models they do not take
        first = (str(e).strip().splitlines() or [""])[0]
        print(json.dumps({"error": f"{type(e).__name__}: {first}"}))
        return 1
    Path(job["out"]).write_bytes(engine)
    print(json.dumps({"seconds": round(time.monotonic() - begin, 1), "wished": wished}))
    return 0


def _engine(job: dict[str, Any], recipe: build.Recipe) -> build.Built:
    timing = Path(job["timing"])
    calibrator = _calibrator(job) if job["calibration"] else None
    if job["via"] == "onnx":
        return build.from_onnx(Path(job["onnx"]), recipe, calibrator, timing)
    from repack.backends.tensorrt.from_module import fill_by_torch2trt

    trt = versions.library()
    log = build.Log(trt)
    fill = fill_by_torch2trt(trt, log, Path(job["module"]), recipe, job["outputs"])
    return build.Built(build.build(trt, log, fill, recipe, calibrator, timing))


def _calibrator(job: dict[str, Any]) -> Any:
    """A calibrator over the arrays of an ``.npz`` file, named ``INPUT/0``, ``INPUT/1``, ..."""
    import torch

    trt = versions.library()
    base = versions.dialect(trt).calibrator_class()  # type: ignore[union-attr]
    names = list(job["profiles"])
    batch = job["profiles"][names[0]][1][0]
    with np.load(job["calibration"]) as data:
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


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
