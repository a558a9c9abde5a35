"""Sample pictures of instances, with outlines where there are YOLO label files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repack.model import Model
from repack.samples import Sample, picture_example
from repack.tasks.detection import samples

EXPECTED = "class x y x y x y ..., an outline of three points or more"


def read(folder: Path, model: Model, flag: str) -> list[Sample]:
    """As ``repack.tasks.detection.samples.read``; the points are those of the outline, their third
    value 0."""
    return samples.read(folder, model, flag, of_outline, EXPECTED)


def of_outline(numbers: Sequence[float]) -> tuple[Sequence[float], samples.Points]:
    """An outline ``x, y, x, y, ...``; a box alone is one of none."""
    if len(numbers) == 4:
        return numbers, ()
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError
    x, y = numbers[::2], numbers[1::2]
    low, high = (min(x), min(y)), (max(x), max(y))
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    size = high[0] - low[0], high[1] - low[1]
    return (*middle, *size), [(a, b, 0.0) for a, b in zip(x, y, strict=True)]


def example(model: Model, samples: Sequence[Sample], folder: Path) -> Path:
    """As ``Task.example``."""
    return picture_example(model, samples, folder)
