"""The gate's samples as pictures: the original's answers beside the converted model's."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handlers import images
from handlers.boxes import Boxes
from handlers.drawing import draw
from handlers.runtimes.base import Runtime
from repack.gate import Reference
from repack.model import Arrays, Model
from repack.report import planes
from repack.samples import Sample
from repack.tasks.detection import compare as verify_detection
from repack.tasks.detection.metrics import match
from repack.tasks.segmentation import compare as verify_segmentation

SHOWN, LOOKED_AT = 3, 40
"""Samples that are shown, those that differ most, and samples that are searched for these."""

SIDE = 480
"""Longest side of a shown picture, pixels."""

QUALITY = 82
"""JPEG quality of what is shown."""

NO_SAMPLES = "no --samples were given: random inputs make no picture worth looking at"


def made(subject: Model, runtime: Runtime, reference: Reference) -> dict[str, Any]:
    """Pictures of the samples on which the converted model differs most from the original.

    Args:
        runtime: the chosen form, activated.

    Returns:
        ``{"kind": "boxes" | "planes", "of": samples searched, "samples": [{"file", "note",
        "pictures": [{"label", "note", "uri"}]}]}``, or ``{"none": reason}``.
    """
    if subject.task not in ("detection", "segmentation"):
        return {"none": f"answers of the task {subject.task} have no pictures"}
    if not reference.samples:
        return {"none": NO_SAMPLES}
    first = len(reference.inputs) - len(reference.samples)
    found = []
    for i, sample in enumerate(reference.samples[:LOOKED_AT]):
        answer = {k: np.array(v) for k, v in runtime.infer(sample.inputs, every=True).items()}
        show = _boxes if subject.task == "detection" else _planes
        found.append(show(subject, sample.inputs, reference.answers[first + i], answer))
        found[-1] |= {"file": _name(reference.samples, i)}
    worst = sorted(range(len(found)), key=lambda i: (-found[i]["differs"], i))[:SHOWN]
    kind = "boxes" if subject.task == "detection" else "planes"
    for i in worst:
        found[i]["pictures"] = [p | {"uri": _uri(p["uri"])} for p in found[i]["pictures"]]
    return {"kind": kind, "of": len(found), "samples": [found[i] for i in worst]}


def _name(samples: Sequence[Sample], i: int) -> str:
    """The sample's file, and which one it is where several come from one file."""
    path = samples[i].path
    same = [j for j, sample in enumerate(samples) if sample.path == path]
    return path.name if same == [i] else f"{path.name}, window {same.index(i) + 1} of {len(same)}"


def _boxes(subject: Model, given: Arrays, want: Arrays, have: Arrays) -> dict[str, Any]:
    one, two = verify_detection.both(subject, want["boxes"][0], have, 0)
    m = match(one, two, iou=0.5)
    alone = len(one) + len(two) - 2 * m.matched
    side = given[subject.inputs[0].name].shape[1]
    return {
        "differs": alone * 1e6 + m.box_px + m.confidence,
        "note": f"{len(one)} boxes by the original, {len(two)} by the converted model, "
        f"{m.matched} matched; corners differ by at most {m.box_px:.2f} px, "
        f"confidences by {m.confidence:.3f}. Model input of {side} x {side} px",
        "pictures": [
            {"label": label, "note": f"{len(found)} boxes", "uri": _drawn(subject, given, found)}
            for label, found in (("original", one), ("converted", two))
        ],
    }


def _drawn(subject: Model, given: Arrays, found: Boxes) -> NDArray[np.uint8]:
    picture, (left, top) = _without_border(given[subject.inputs[0].name][0])
    scale = min(1.0, SIDE / max(picture.shape[:2]))
    size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    shift = np.array([left, top, left, top])
    rows = [
        {
            "class": subject.source.labels[int(row[5])],
            "class_id": int(row[5]),
            "confidence": float(row[4]),
            "box": ((row[:4] - shift) * scale).tolist(),
        }
        for row in found
    ]
    return draw(small, rows)


def _without_border(picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The picture without the letterbox around it, and how much went at the left and the top."""
    filled = (picture != images.PADDING).any(2)
    rows, columns = np.flatnonzero(filled.any(1)), np.flatnonzero(filled.any(0))
    if not len(rows):
        return picture, (0, 0)
    top, left = int(rows[0]), int(columns[0])
    return picture[top : rows[-1] + 1, left : columns[-1] + 1], (left, top)


def _planes(subject: Model, given: Arrays, want: Arrays, have: Arrays) -> dict[str, Any]:
    name = subject.outputs[0].name
    masks = [mask(answer[name][0], subject.settings) for answer in (want, have)]
    scan = given[subject.inputs[0].name][0, 0]
    spacing = subject.settings.get("spacing")
    if spacing is not None and len(spacing) != scan.ndim:
        spacing = spacing[-scan.ndim :]
    unit = "voxels" if spacing is None else "mm"
    pictures = []
    for plane in planes.cut(scan, masks[0], masks[1], spacing):
        where = (
            "" if plane.axis is None else f"across axis {plane.axis} ({'zyx'[plane.axis]}), slice "
        )
        where += "" if plane.axis is None else f"{plane.place[0] + 1} of {plane.place[1]}, "
        size = f"{where}{plane.extent[0]:g} x {plane.extent[1]:g} {unit}"
        labelled = ("scan", "original", "converted", "difference")
        for label in labelled:
            note = f"{size}; {plane.differing:,} voxels differ" if label == "difference" else size
            pictures.append({"label": label, "note": note, "uri": getattr(plane, label)})
    differing = int((masks[0] != masks[1]).sum())
    return {
        "differs": float(differing),
        "note": f"{differing:,} of {masks[0].size:,} voxels differ; one patch of the "
        "model's input, first channel, grey from its 1st to its 99th percentile. In the "
        "difference, orange is where the original's label is lost or another, blue where one was "
        "added",
        "pictures": pictures,
    }


def mask(logits: NDArray[Any], settings: dict[str, Any]) -> NDArray[np.int64]:
    """The labels that the handler would answer for one patch.

    Args:
        logits: ``[K, *patch]``.
        settings: the passport's, see "answer" in the README's part on segmentation.
    """
    masks = verify_segmentation.masks(logits[None], settings)
    order = settings["answer"].get("order") or range(1, len(masks) + 1)
    found = np.zeros(logits.shape[1:], np.int64)
    for label, (region,) in zip(order, masks, strict=True):
        found[region] = label
    return found


def _uri(picture: NDArray[np.uint8]) -> str:
    data = images.encode_jpeg(np.ascontiguousarray(picture), QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
