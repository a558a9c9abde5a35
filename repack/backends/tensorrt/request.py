"""What a TensorRT engine is asked to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from handlers.engines import versions
from handlers.errors import KitError
from repack.model import Arrays, GpuModel
from repack.options import GpuOptions, Profiles


@dataclass(frozen=True)
class EngineRequest:
    """What to build.

    Attributes:
        model: as a GPU takes it.
        via: "onnx" or "torch2trt".
        precision: "f32", "f16", "int8" or "best".
        batches: one engine for each, of fixed size; where empty, one engine of ``profile``.
        profile: min, opt and max shape per input.
        calibration: inputs as the passport has them.
    """

    model: GpuModel
    via: str
    precision: str
    batches: tuple[int, ...]
    profile: Profiles
    options: GpuOptions
    calibration: Sequence[Arrays]

    def profiles(self) -> list[Profiles]:
        """That of each engine.

        Raises:
            KitError: an axis besides the batch is of any length, and no profile was given.
        """
        if not self.batches:
            return [self.profile]
        try:
            shapes = [self.model.sized(batch) for batch in self.batches]
        except ValueError as e:
            raise KitError(
                f"{e}: an axis besides the batch is of any length: give --min, --opt and --max"
            ) from None
        return [{name: (s, s, s) for name, s in fixed.items()} for fixed in shapes]

    def fed(self) -> list[Arrays]:
        """The calibration inputs as the ONNX file takes them (``onnx_file.widen_bytes``)."""
        rows = [self.model.feed(given) for given in self.calibration]
        return [
            {k: v.astype(np.float32) if v.dtype == np.uint8 else v for k, v in row.items()}
            for row in rows
        ]

    def by_calibrator(self, dialect: versions.Dialect) -> bool:
        """Whether TensorRT looks for int8 ranges: 8's calibrator, where no file holds them."""
        asked = self.precision == "best" or (self.precision, self.via) == ("int8", "torch2trt")
        return bool(asked and self.calibration and not dialect.typed)
