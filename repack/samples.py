"""The user's own pictures or arrays: what the gate compares on and what int8 is calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers import images
from handlers.errors import ItemError, KitError
from handlers.passport import TensorSpec, sha256
from handlers.tensors import check
from repack.model import Arrays, Subject

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
ARRAYS = {".npy", ".npz"}


@dataclass(frozen=True)
class Sample:
    """One file of a samples folder, ready for the model.

    Attributes:
        inputs: batch of one.
        truth: ``[K, 5]`` float32, x1, y1, x2, y2 in pixels of the model's input and class index;
            None where the picture has no label file. For a classifier ``[1]``, the class index.
    """

    path: Path
    inputs: Arrays
    truth: NDArray[np.float32] | None = None


def read(folder: Path, subject: Subject, flag: str) -> list[Sample]:
    """Every picture (detectors) or ``.npy``/``.npz`` file (other models) of a folder, by name.

    Segmentation nets get windows of volumes: ``repack.tasks.segmentation.samples``.

    A picture's labels are looked for beside it and in ``labels/``, as ``NAME.txt`` in YOLO's
    format: class, centre x, centre y, width, height on each line, as shares of the picture's size.

    Raises:
        KitError: no such folder, nothing usable in it, or a file that cannot be read.
    """
    if not folder.is_dir():
        raise KitError(f"{flag} {folder}: no such folder")
    if subject.task == "classification":
        from repack.tasks.classification import samples as samples_classification

        return samples_classification.read(folder, subject, flag)
    if subject.task == "segmentation":
        from repack.tasks.segmentation import samples as volume_samples

        return volume_samples.read(folder, subject, flag)
    kinds = PICTURES if subject.task == "detection" else ARRAYS
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in kinds)
    if not paths:
        raise KitError(f"{flag} {folder}: holds no {', '.join(sorted(kinds))} file")
    reader = _picture if subject.task == "detection" else _arrays
    samples = []
    for path in paths:
        try:
            samples.append(reader(path, subject))
        except ItemError as e:
            raise KitError(f"{path}: {e}") from None
    return samples


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


def _picture(path: Path, subject: Subject) -> Sample:
    spec = subject.inputs[0]
    fit = int(spec.shape[1]), int(spec.shape[2])
    picture = images.decode_to_fit(path.read_bytes(), fit)
    size = picture.height, picture.width
    fitted, place = images.letterbox(picture.pixels, *fit, size)
    truth = None
    for labels in (path.with_suffix(".txt"), path.parent / "labels" / f"{path.stem}.txt"):
        if labels.is_file():
            truth = _truth(labels, picture.width, picture.height, place)
            _check_classes(labels, truth, len(subject.source.labels))
    return Sample(path, {spec.name: fitted[None]}, truth)


def _truth(path: Path, width: int, height: int, place: images.Letterbox) -> NDArray[np.float32]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise KitError(f"{path}: no label file ({e})") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            kind, x, y, w, h = (float(v) for v in line.split())
        except ValueError:
            raise KitError(f"{path}, line {number}: {line!r}; expected: class cx cy w h") from None
        rows.append(
            [
                (x - w / 2) * width,
                (y - h / 2) * height,
                (x + w / 2) * width,
                (y + h / 2) * height,
                kind,
            ]
        )
    truth = np.array(rows, np.float32).reshape(-1, 5)
    truth[:, :4] *= place.scale
    truth[:, [0, 2]] += place.left
    truth[:, [1, 3]] += place.top
    return truth


def _check_classes(path: Path, truth: NDArray[np.float32], classes: int) -> None:
    for number, kind in enumerate(truth[:, 4].tolist(), 1):
        if kind not in range(classes):
            raise KitError(
                f"{path}, line {number}: class {kind:g}; the model has classes 0 to {classes - 1}"
            )


def _arrays(path: Path, subject: Subject) -> Sample:
    specs: tuple[TensorSpec, ...] = subject.inputs
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        given = dict(loaded) if path.suffix == ".npz" else {specs[0].name: loaded}
    except Exception as e:  # NumPy's readers raise many types for damaged files
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise KitError(f"{path}: no array file ({reason})") from None
    return Sample(path, {s.name: check(given, s) for s in specs})
