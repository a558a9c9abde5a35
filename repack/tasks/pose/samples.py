"""Sample pictures of poses, with boxes where there are YOLO label files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repack.model import Model
from repack.samples import Sample, picture_example
from repack.tasks.detection import samples

EXPECTED = "class cx cy w h, then x y or x y v of each point"


def read(folder: Path, model: Model, flag: str) -> list[Sample]:
    """As ``repack.tasks.detection.samples.read``; a label's points are not compared."""
    return samples.read(folder, model, flag, lambda numbers: numbers[:4], EXPECTED)


def example(model: Model, samples: Sequence[Sample], folder: Path) -> Path:
    """As ``Task.example``."""
    return picture_example(model, samples, folder)
