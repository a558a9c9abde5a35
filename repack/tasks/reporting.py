"""What the tasks' parts of the report share: its notes, and the samples that differ most."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handlers import images
from handlers.runtimes.base import Runtime
from repack.model import Arrays
from repack.samples import Sample

if TYPE_CHECKING:
    from repack.gate import Reference

SHOWN, LOOKED_AT = 3, 40
"""Samples that are shown, those that differ most, and samples that are searched for these."""

SIDE = 480
"""Longest side of a shown picture of the samples, pixels."""

QUALITY = 82
"""JPEG quality of what is shown."""

NO_SAMPLES = "no --samples were given: random inputs make no picture worth looking at"


def note(what: str, why: str, serious: bool = False) -> dict[str, Any]:
    """One thing that was not checked.

    Args:
        serious: a person who decides on the archive must know it.
    """
    return {"what": what, "why": why, "serious": serious}


def small(picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """A picture ``[H, W, 3]`` no longer than ``SIDE``, and its scale, at most 1."""
    scale = min(1.0, SIDE / max(picture.shape[:2]))
    size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def most_differing(
    kind: str,
    compared: Callable[[Arrays, Arrays, Arrays], dict[str, Any]],
    runtime: Runtime,
    reference: Reference,
) -> dict[str, Any]:
    """Pictures of the samples on which the converted model differs most from the original.

    Args:
        kind: how the page lays the pictures out, "boxes" or "planes".
        compared: from one sample's inputs, the original's answer and the converted model's:
            ``{"differs": a number, the larger the worse, "note": str, "pictures": [{"label",
            "note", "pixels": [H, W, 3] uint8 RGB}]}``; what else it holds is kept.
        runtime: the converted model, activated.

    Returns:
        ``{"kind", "of": samples searched, "samples": [{"file", "differs", "note", "pictures":
        [{"label", "note", "uri"}]}]}``, or ``{"none": reason}``.
    """
    if not reference.samples:
        return {"none": NO_SAMPLES}
    first = len(reference.inputs) - len(reference.samples)
    found = []
    for i, sample in enumerate(reference.samples[:LOOKED_AT]):
        answer = {k: np.array(v) for k, v in runtime.infer(sample.inputs, every=True).items()}
        seen = compared(sample.inputs, reference.answers[first + i], answer)
        found.append({"file": _name(reference.samples, i), **seen})
    worst = sorted(range(len(found)), key=lambda i: (-found[i]["differs"], i))[:SHOWN]
    for i in worst:
        for picture in found[i]["pictures"]:
            picture["uri"] = _uri(picture.pop("pixels"))
    return {"kind": kind, "of": len(found), "samples": [found[i] for i in worst]}


def _name(samples: Sequence[Sample], i: int) -> str:
    """The sample's file, and which one it is where several come from one file."""
    path = samples[i].path
    same = [j for j, sample in enumerate(samples) if sample.path == path]
    return path.name if same == [i] else f"{path.name}, window {same.index(i) + 1} of {len(same)}"


def _uri(picture: NDArray[np.uint8]) -> str:
    data = images.encode_jpeg(np.ascontiguousarray(picture), QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
