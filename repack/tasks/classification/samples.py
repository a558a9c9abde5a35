"""A classifier's sample pictures: in one folder, or in one folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handlers import crops
from handlers.errors import ItemError, KitError
from repack.model import Model
from repack.samples import PICTURES, Sample, picture_example


def read(folder: Path, model: Model, flag: str) -> list[Sample]:
    """Every picture of a folder, and of its subfolders, which are named for the class they hold.

    A subfolder's name is a label, or a class's number. Pictures in the folder itself have no
    truth; else it is ``[1]`` float32, the class's index.

    Raises:
        KitError: no picture, a subfolder that names no class, or a file that cannot be read.
    """
    found: list[tuple[Path, NDArray[np.float32] | None]] = [
        (path, None) for path in _pictures(folder)
    ]
    for place in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        pictures = _pictures(place)
        if pictures:
            truth = _class(place, model.source.labels)
            found += [(path, truth) for path in pictures]
    if not found:
        raise KitError(f"{flag} {folder}: holds no {', '.join(sorted(PICTURES))} file")
    return [_sample(path, truth, model) for path, truth in found]


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)


def _class(folder: Path, labels: tuple[str, ...]) -> NDArray[np.float32]:
    name = folder.name
    if name in labels:
        return np.array([labels.index(name)], np.float32)
    if name.isdecimal() and int(name) < len(labels):
        return np.array([int(name)], np.float32)
    raise KitError(
        f"{folder}: no class {name!r}; expected a line of --labels or a number below {len(labels)}"
    )


def _sample(path: Path, truth: NDArray[np.float32] | None, model: Model) -> Sample:
    spec, settings = model.inputs[0], model.settings
    try:
        pixels = crops.read(path.read_bytes(), settings["resize"], settings["crop"]).pixels
    except ItemError as e:
        raise KitError(f"{path}: {e}") from None
    size = spec.shape[0]
    count = size if isinstance(size, int) else 1  # a fixed batch sees the picture in every place
    return Sample(path, {spec.name: np.repeat(pixels[None], count, axis=0)}, truth)


def example(model: Model, samples: Sequence[Sample], folder: Path) -> Path:
    """As ``Task.example``."""
    return picture_example(model, samples, folder)
