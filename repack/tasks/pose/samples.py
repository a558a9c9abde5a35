"""Sample pictures of poses, with boxes and points where there are YOLO label files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from handlers import heads
from handlers.pose import POINT
from repack.model import Model
from repack.samples import Sample, picture_example
from repack.tasks.detection import samples

EXPECTED = "class cx cy w h, then x y or x y v of each point, of which the model has {}"


def read(folder: Path, model: Model, flag: str) -> list[Sample]:
    """As ``repack.tasks.detection.samples.read``; a point's third value is its visibility: 0 for
    one that is not labelled."""
    count = heads.required(model.settings).extras // POINT

    def of_points(numbers: Sequence[float]) -> tuple[Sequence[float], samples.Points]:
        box, rest = numbers[:4], numbers[4:]
        if not rest and len(box) == 4:
            return box, ()
        values = len(rest) // count
        if values not in (2, 3) or len(rest) != count * values:
            raise ValueError
        points = np.reshape(rest, (count, values)).tolist()
        return box, [(x, y, *(v or [2.0])) for x, y, *v in points]

    return samples.read(folder, model, flag, of_points, EXPECTED.format(count))


def example(model: Model, samples: Sequence[Sample], folder: Path) -> Path:
    """As ``Task.example``."""
    return picture_example(model, samples, folder)
