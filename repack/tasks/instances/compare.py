"""The gate's metric for instances: a detector's, and the overlap of masks that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as masks

from handlers import instances
from handlers.boxes import Boxes
from handlers.letterbox import Letterbox
from repack.model import Arrays, Model
from repack.samples import Sample
from repack.tasks.base import Comparison
from repack.tasks.detection import compare as detection

COUNTED = 100
"""Masks of a picture that enter average precision: COCO's limit."""

HERE = Letterbox(1, 1, 0, 0)


def compare(
    model: Model,
    asked: str,
    originals: Sequence[Arrays],
    converted: Sequence[Arrays],
    samples: Sequence[Sample],
) -> Comparison:
    """As ``Task.compare``."""
    result = detection.compare(model, asked, originals, converted, samples)
    overlaps = []
    for p in detection.paired(model, asked, originals, converted):
        for one, other in p.rows:
            first = inside(model, one, p.want["protos"][p.i])
            second = inside(model, other, p.have["protos"][p.i])
            if first.sum() >= detection.SMALL:
                overlaps.append((first & second).sum() / (first | second).sum())
    detection.compare_map(model, asked, originals, converted, samples, result, precision(model))
    detection.compare_overlaps(asked, overlaps, "masks", "mask_iou", result)
    return result


def inside(
    model: Model, row: NDArray[np.float32], protos: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """One instance's mask on the model's input, ``[H, W]``."""
    height, width = (int(n) for n in model.inputs[0].shape[1:3])
    found = np.zeros((height, width), bool)
    box = row[:4].clip(0, [width, height, width, height])
    share = protos.shape[2] / width, protos.shape[1] / height
    mask = instances.mask(box, row[6:], protos, HERE, share, (height, width))
    h, w = mask.inside.shape
    found[mask.top : mask.top + h, mask.left : mask.left + w] = mask.inside
    return found


def precision(model: Model) -> detection.Precision:
    """Average precision by the overlap of masks, on the model's input."""
    size = int(model.inputs[0].shape[1]), int(model.inputs[0].shape[2])
    real, found = partial(_real, size), partial(_found, model)
    return detection.Precision("mask_map", "mask mAP50-95", "segm", "outlines", real, found)


def _real(size: tuple[int, int], truth: NDArray[np.float32]) -> list[dict[str, Any]] | None:
    """The labelled outlines filled, on the model's input; None where a label has none."""
    found = []
    for points in truth[:, 5:].reshape(len(truth), -1, 3):
        outline = points[~np.isnan(points[:, 0]), :2]
        if not len(outline):
            return None
        (filled,) = masks.frPyObjects([outline.reshape(-1).astype(float).tolist()], *size)
        found.append({"segmentation": filled, "area": float(masks.area(filled))})
    return found


def _found(model: Model, rows: Boxes, answer: Arrays) -> list[dict[str, Any]]:
    """Masks of the best boxes, as many as count; the others' are empty."""
    found = []
    for i, row in enumerate(rows):
        whole = inside(model, row if i < COUNTED else row * 0, answer["protos"][0])
        filled = masks.encode(np.asfortranarray(whole, np.uint8))
        found.append({"segmentation": filled, "area": float(masks.area(filled))})
    return found
