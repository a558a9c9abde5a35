"""The user's own inputs: what the gate compares on and what int8 is calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers import images
from handlers.errors import ItemError, KitError
from handlers.passport import TensorSpec, sha256
from handlers.tensors import check
from repack.model import Arrays, Model

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
ARRAYS = {".npy", ".npz"}


@dataclass(frozen=True)
class Sample:
    """One file of a samples folder, ready for the model.

    Attributes:
        inputs: batch of one.
        truth: what its label says, as its task defines it; None where there is none.
    """

    path: Path
    inputs: Arrays
    truth: NDArray[Any] | None = None


def read_each(
    folder: Path,
    flag: str,
    endings: set[str],
    read: Callable[[Path], Sample],
    others: Collection[Path] = (),
) -> list[Sample]:
    """Every file of a folder that has one of the endings, by name.

    Args:
        others: files there that are no samples, such as labels.

    Raises:
        KitError: none is there, or one cannot be read.
    """
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in endings and p not in others)
    if not paths:
        raise KitError(f"{flag} {folder}: holds no {', '.join(sorted(endings))} file")
    found = []
    for path in paths:
        try:
            found.append(read(path))
        except ItemError as e:
            raise KitError(f"{path}: {e}") from None
    return found


def refuse_overlap(calibration: Sequence[Sample], gate: Sequence[Sample]) -> list[Sample]:
    """The gate's samples without those that int8 was calibrated on, compared by content.

    Raises:
        KitError: none is left.
    """
    seen = {sha256(s.path) for s in calibration}
    fresh = [s for s in gate if sha256(s.path) not in seen]
    if gate and not fresh:
        raise KitError(
            "--samples and --calibration hold the same files: the gate needs ones that the "
            "conversion never saw; put some aside"
        )
    return fresh


def arrays(path: Path, model: Model) -> Sample:
    """A ``.npy`` file (models with one input) or a ``.npz`` file.

    Raises:
        KitError: no array file.
        ItemError: arrays that the model does not take.
    """
    specs: tuple[TensorSpec, ...] = model.inputs
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        given = dict(loaded) if path.suffix == ".npz" else {specs[0].name: loaded}
    except Exception as e:  # NumPy's readers raise many types for damaged files
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise KitError(f"{path}: no array file ({reason})") from None
    return Sample(path, {s.name: check(given, s) for s in specs})


def picture_example(model: Model, samples: Sequence[Sample], folder: Path) -> Path:
    """The first sample, or a picture of noise."""
    if samples:
        return samples[0].path.resolve()
    path = folder / "example.jpg"
    noise = next(iter(model.random_inputs(seed=2).values()))[0]
    path.write_bytes(images.encode_jpeg(noise))
    return path
