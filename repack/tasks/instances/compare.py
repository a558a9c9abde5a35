"""The gate's metric for instances: a detector's, and the overlap of masks that belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from handlers import instances
from handlers.letterbox import Letterbox
from repack.model import Arrays, Model
from repack.samples import Sample
from repack.tasks.base import Comparison
from repack.tasks.detection import compare as detection

LEAST = {"f32": 0.99, "f16": 0.97, "bf16": 0.9, "int8": 0.85, "best": 0.85}
"""Least mean overlap (intersection over union) of masks that belong together."""

SMALL = 64
"""Pixels of a mask that is compared: of fewer, one pixel is a percent and more."""

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
    for p in detection.paired(model, originals, converted):
        for one, other in p.rows:
            first = inside(model, one, p.want["protos"][p.i])
            second = inside(model, other, p.have["protos"][p.i])
            if first.sum() >= SMALL:
                overlaps.append((first & second).sum() / (first | second).sum())
    result.figures["masks_compared"] = len(overlaps)
    if not overlaps:
        return result
    mean = float(np.mean(overlaps))
    result.figures["mean_mask_iou"] = round(mean, 4)
    result.figures["least_mask_iou"] = round(float(min(overlaps)), 4)
    if mean < LEAST[asked]:
        result.failures.append(f"masks: mean overlap {mean:.4f}, at least {LEAST[asked]}")
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
