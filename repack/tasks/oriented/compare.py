"""The gate's metric for boxes at an angle: a detector's, and the overlap of the rectangles."""

from __future__ import annotations

from collections.abc import Sequence

from handlers.rectangles import overlap
from repack.model import Arrays, Model
from repack.samples import Sample
from repack.tasks.base import Comparison
from repack.tasks.detection import compare as detection


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
        for p in detection.paired(model, asked, originals, converted)
        for one, other in p.rows
        if one[8] * one[9] >= detection.SMALL
    ]
    detection.compare_overlaps(asked, overlaps, "rectangles", "rotated_iou", result)
    return result
