"""The gate's metric for boxes at an angle: a detector's, and the overlap of the rectangles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from handlers.rectangles import overlap
from repack.model import Arrays, Model
from repack.samples import Sample
from repack.tasks.base import Comparison
from repack.tasks.detection import compare as detection

LEAST = {"f32": 0.99, "f16": 0.97, "bf16": 0.9, "int8": 0.85, "best": 0.85}
"""Least mean overlap (intersection over union) of rectangles that belong together."""

SMALL = 64
"""Area of a rectangle that is compared, pixels; of smaller ones a pixel is a percent and more."""


def compare(
    model: Model,
    asked: str,
    originals: Sequence[Arrays],
    converted: Sequence[Arrays],
    samples: Sequence[Sample],
) -> Comparison:
    """As ``Task.compare``."""
    result = detection.compare(model, asked, originals, converted, samples)
    overlaps = [
        overlap(one[6:], other[6:])
        for p in detection.paired(model, originals, converted)
        for one, other in p.rows
        if one[8] * one[9] >= SMALL
    ]
    result.figures["rectangles_compared"] = len(overlaps)
    if not overlaps:
        return result
    mean = float(np.mean(overlaps))
    result.figures["mean_rotated_iou"] = round(mean, 4)
    result.figures["least_rotated_iou"] = round(min(overlaps), 4)
    if mean < LEAST[asked]:
        result.failures.append(f"rectangles: mean overlap {mean:.4f}, at least {LEAST[asked]}")
    return result
