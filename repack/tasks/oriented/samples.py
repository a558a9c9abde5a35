"""Sample pictures of boxes at an angle, with their corners where there are YOLO label files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repack.model import Model
from repack.samples import Sample, picture_example
from repack.tasks.detection import samples
from repack.tasks.instances.samples import of_outline

EXPECTED = "class x1 y1 x2 y2 x3 y3 x4 y4"


def read(folder: Path, model: Model, flag: str) -> list[Sample]:
    """As ``repack.tasks.detection.samples.read``; the upright box around a label is compared."""
    return samples.read(folder, model, flag, _of_corners, EXPECTED)


def _of_corners(numbers: Sequence[float]) -> tuple[Sequence[float], samples.Points]:
    if len(numbers) != 8:
        raise ValueError
    return of_outline(numbers)[0], ()


def example(model: Model, samples: Sequence[Sample], folder: Path) -> Path:
    """As ``Task.example``."""
    return picture_example(model, samples, folder)
