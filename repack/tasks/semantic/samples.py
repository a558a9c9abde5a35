"""Sample pictures of semantic segmentation, with the class of each pixel where there are labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handlers import images
from handlers.errors import KitError
from repack.model import Model
from repack.samples import PICTURES, Sample, picture_example, read_each
from repack.tasks.label_files import beside

IGNORED = 255
"""What a label's pixel holds whose class does not count; 65535 where there are more classes."""

MODES = ("1", "L", "P", "I;16", "I")
"""Pillow's names of PNG files with one number a pixel."""


def read(folder: Path, model: Model, flag: str) -> list[Sample]:
    """Every picture of a folder, fitted into the model's input.

    A picture's labels are a PNG of its own size whose pixels are numbers of classes, looked for
    where the other tasks' are (``repack.tasks.label_files``); beside the picture it is told by its
    name, which is that of a picture of another format. ``Sample.truth`` is ``[H, W]`` on the
    picture's own pixels, uint8 or uint16; ``IGNORED`` and what else is no class does not count.

    Raises:
        KitError: nothing usable there, or a file that cannot be read.
    """
    others = {p.stem for p in folder.iterdir() if p.suffix.lower() in PICTURES - {".png"}}
    labels = {p for p in folder.glob("*.png") if p.stem in others}
    found = read_each(folder, flag, PICTURES, lambda path: _picture(path, model), labels)
    truths = [s.truth for s in found if s.truth is not None]
    odd = any((t == IGNORED).any() for t in truths) and not any((t == 1).any() for t in truths)
    if odd and len(model.source.labels) == 2:
        raise KitError(
            f"{flag} {folder}: no label holds class 1, but {IGNORED}, which does not count: write "
            f"1 for {model.source.labels[1]}"
        )
    return found


def _picture(path: Path, model: Model) -> Sample:
    spec = model.inputs[0]
    fit = int(spec.shape[1]), int(spec.shape[2])
    mode = model.settings["resize_mode"]
    picture = images.decode_to_fit(path.read_bytes(), fit, cover=mode == "stretch")
    size = picture.height, picture.width
    fitted, _ = images.letterbox(picture.pixels, *fit, size, mode)
    truth = None
    for labels in beside(path, ".png"):
        if labels.is_file() and labels != path.absolute():
            truth = _truth(labels, size, len(model.source.labels))
    return Sample(path, {spec.name: fitted[None]}, truth)


def _truth(path: Path, size: tuple[int, int], classes: int) -> NDArray[Any]:
    try:
        with Image.open(path, formats=("PNG",)) as file:
            mode, own = file.mode, (file.height, file.width)
            if own != size:
                raise KitError(
                    f"{path}: labels of {own[1]}x{own[0]} pixels; the picture has "
                    f"{size[1]}x{size[0]}"
                )
            if mode not in MODES:
                raise KitError(
                    f"{path}: a PNG of {mode}; expected one number a pixel, its class, such as "
                    "8-bit grey"
                )
            found = np.asarray(file)
    except KitError:
        raise
    except Exception as e:  # Pillow raises many types for damaged files
        raise KitError(f"{path}: no PNG of labels ({e})") from None
    ignored = IGNORED if classes <= IGNORED else 65535
    odd = found[(found >= classes) & (found != ignored)]
    if odd.size:
        raise KitError(
            f"{path}: class {odd[0]}; the model has classes 0 to {classes - 1}, and {ignored} is "
            "what does not count"
        )
    return found.astype(np.uint8 if classes <= IGNORED else np.uint16)


def example(model: Model, samples: Sequence[Sample], folder: Path) -> Path:
    """As ``Task.example``."""
    return picture_example(model, samples, folder)
