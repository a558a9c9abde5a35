"""The gate's metric for poses: a detector's, and the points of boxes that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers import heads
from handlers.boxes import Boxes
from handlers.pose import POINT
from repack.model import Arrays, Model
from repack.samples import Sample
from repack.tasks.base import Comparison
from repack.tasks.detection import compare as detection

SEEN = 0.5
"""Confidence of a point that is compared: where the original does not see one, its place is any."""


COCO_POINTS = 17
"""Points of a person in COCO, which have sigmas of their own; others get one over their number, as
this field usually has it."""

AREA = 0.53
"""Share of its box that an object is taken to cover where labels do not say, as for COCO's persons
in this field."""


def compare(
    model: Model,
    asked: str,
    originals: Sequence[Arrays],
    converted: Sequence[Arrays],
    samples: Sequence[Sample],
) -> Comparison:
    """As ``Task.compare``."""
    result = detection.compare(model, asked, originals, converted, samples)
    shift, seen_points = 0.0, 0
    for p in detection.paired(model, asked, originals, converted):
        for one, other in p.rows:
            first, second = (row[6:].reshape(-1, POINT) for row in (one, other))
            seen = first[:, 2] >= SEEN
            seen_points += int(seen.sum())
            apart = np.abs(first[seen, :2] - second[seen, :2])
            shift = max(shift, float(apart.max(initial=0.0)))
    result.figures["points_compared"] = seen_points
    result.figures["largest_point_shift_px"] = round(shift, 2)
    detection.compare_map(model, asked, originals, converted, samples, result, precision(model))
    most = detection.PIXELS[asked]
    if shift > most:
        result.failures.append(f"points: one moved {shift:.2f} px, at most {most} px")
    return result


def precision(model: Model) -> detection.Precision:
    """Average precision by object keypoint similarity."""
    count = heads.required(model.settings).extras // POINT
    sigmas = None if count == COCO_POINTS else [1 / count] * count
    return detection.Precision(
        "oks_map", "OKS mAP50-95", "keypoints", "points", _real, _found, sigmas
    )


def _real(truth: NDArray[np.float32]) -> list[dict[str, Any]] | None:
    """Labelled points, as COCO has them; None where a label has none."""
    points = truth[:, 5:].reshape(len(truth), -1, POINT)
    if not points.size or np.isnan(points).any():
        return None
    sizes = (truth[:, 2:4] - truth[:, :2]).prod(1) * AREA
    return [
        {
            "keypoints": each.reshape(-1).tolist(),
            "num_keypoints": int((each[:, 2] > 0).sum()),
            "area": float(size),
        }
        for each, size in zip(points, sizes, strict=True)
    ]


def _found(rows: Boxes, answer: Arrays) -> list[dict[str, Any]]:
    return [{"keypoints": row[6:].tolist()} for row in rows]
