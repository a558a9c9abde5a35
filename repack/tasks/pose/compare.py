"""The gate's metric for poses: a detector's, and the points of boxes that belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from handlers.pose import POINT
from repack.model import Arrays, Model
from repack.samples import Sample
from repack.tasks.base import Comparison
from repack.tasks.detection import compare as detection

SEEN = 0.5
"""Confidence of a point that is compared: where the original does not see one, its place is any."""


def compare(
    model: Model,
    asked: str,
    originals: Sequence[Arrays],
    converted: Sequence[Arrays],
    samples: Sequence[Sample],
) -> Comparison:
    """As ``Task.compare``."""
    result = detection.compare(model, asked, originals, converted, samples)
    shift, count = 0.0, 0
    for p in detection.paired(model, originals, converted):
        for one, other in p.rows:
            first, second = (row[6:].reshape(-1, POINT) for row in (one, other))
            seen = first[:, 2] >= SEEN
            count += int(seen.sum())
            apart = np.abs(first[seen, :2] - second[seen, :2])
            shift = max(shift, float(apart.max(initial=0.0)))
    result.figures["points_compared"] = count
    result.figures["largest_point_shift_px"] = round(shift, 2)
    most = detection.PIXELS[asked]
    if shift > most:
        result.failures.append(f"points: one moved {shift:.2f} px, at most {most} px")
    return result
