"""A detector's sample pictures, with boxes where there are YOLO label files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handlers import images
from handlers.errors import KitError
from handlers.letterbox import Letterbox
from repack.model import Model
from repack.samples import PICTURES, Sample, picture_example, read_each
from repack.tasks.label_files import beside

Points = Sequence[tuple[float, float, float]]
"""x, y and a third value, as the task's truth has it."""

Box = Callable[[Sequence[float]], tuple[Sequence[float], Points]]
"""From a label's numbers behind its class to centre x, centre y, width and height, and the points
that it has beside, all as shares of the picture's size."""


def of_box(numbers: Sequence[float]) -> tuple[Sequence[float], Points]:
    """A detector's label."""
    x, y, w, h = numbers
    return (x, y, w, h), ()


def read(
    folder: Path,
    model: Model,
    flag: str,
    box: Box = of_box,
    expected: str = "class cx cy w h",
) -> list[Sample]:
    """Every picture of a folder, fitted into the model's input.

    A picture's labels are looked for beside it, in ``labels/`` there, and for a picture below
    ``images/`` in the same place below the ``labels/`` beside that, as ``NAME.txt`` in YOLO's
    format: class, centre x, centre y, width, height on each line, as shares of the picture's size.
    ``Sample.truth`` is ``[K, 5 + 3 n]`` float32: x1, y1, x2, y2 in pixels of the model's input,
    class, then x, y (pixels) and the third value of each point; NaN where a label has fewer.

    Args:
        box, expected: how the task's labels are read, and what is said of those that cannot be.

    Raises:
        KitError: nothing usable there, or a file that cannot be read.
    """
    return read_each(folder, flag, PICTURES, lambda path: _picture(path, model, box, expected))


def _picture(path: Path, model: Model, box: Box, expected: str) -> Sample:
    spec = model.inputs[0]
    fit = int(spec.shape[1]), int(spec.shape[2])
    mode = model.settings.get("resize_mode", "letterbox")
    picture = images.decode_to_fit(path.read_bytes(), fit, cover=mode == "stretch")
    size = picture.height, picture.width
    fitted, place = images.letterbox(picture.pixels, *fit, size, mode)
    truth = None
    for labels in beside(path, ".txt"):
        if labels.is_file():
            truth = _truth(labels, picture.width, picture.height, place, box, expected)
            _check_classes(labels, truth, len(model.source.labels))
    return Sample(path, {spec.name: fitted[None]}, truth)


def _truth(
    path: Path, width: int, height: int, place: Letterbox, box: Box, expected: str
) -> NDArray[np.float32]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise KitError(f"{path}: no label file ({e})") from None
    rows, more = [], []
    for number, line in enumerate(lines, 1):
        try:
            kind, *numbers = (float(v) for v in line.split())
            (x, y, w, h), points = box(numbers)
        except ValueError:
            shown = f"{line!r:.80}"
            raise KitError(f"{path}, line {number}: {shown}; expected: {expected}") from None
        rows.append(
            [
                (x - w / 2) * width,
                (y - h / 2) * height,
                (x + w / 2) * width,
                (y + h / 2) * height,
                kind,
            ]
        )
        more.append([(px * width, py * height, v) for px, py, v in points])
    truth = np.array(rows, np.float32).reshape(-1, 5)
    truth[:, [0, 2]] = truth[:, [0, 2]] * place.scale_x + place.left
    truth[:, [1, 3]] = truth[:, [1, 3]] * place.scale_y + place.top
    most = max(map(len, more), default=0)
    placed = np.full((len(rows), most, 3), np.nan, np.float32)
    for row, points in zip(placed, more, strict=True):
        row[: len(points)] = np.reshape(points, (-1, 3))
    placed[..., 0] = placed[..., 0] * place.scale_x + place.left
    placed[..., 1] = placed[..., 1] * place.scale_y + place.top
    return np.concatenate((truth, placed.reshape(len(rows), 3 * most)), axis=1)


def _check_classes(path: Path, truth: NDArray[np.float32], classes: int) -> None:
    for number, kind in enumerate(truth[:, 4].tolist(), 1):
        if kind not in range(classes):
            raise KitError(
                f"{path}, line {number}: class {kind:g}; the model has classes 0 to {classes - 1}"
            )


def example(model: Model, samples: Sequence[Sample], folder: Path) -> Path:
    """As ``Task.example``."""
    return picture_example(model, samples, folder)
