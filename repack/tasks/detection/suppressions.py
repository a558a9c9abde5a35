"""Whether two models' boxes differ only in suppressions that lie within the models' rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers import boxes, heads

ULPS = 4
"""Units in the last place of a 32-bit coordinate or confidence that sums in another order may
cost."""

MOST_PX, MOST_CONFIDENCE = 0.1, 1e-3
"""Differences of two models' rows, beyond which they are no rounding of 32-bit floats: measured are
0.0006 px of 1290, and 1e-5."""


def within_rounding(
    original: NDArray[np.float32],
    converted: NDArray[np.float32],
    survivors: boxes.Boxes,
    settings: Mapping[str, Any],
) -> bool:
    """Whether the converted model's boxes are a suppression of the original's own candidates, in
    which nothing is decided otherwise but what the measured difference of the two leaves open.

    That is so where every survivor is one of the candidates, none surely had to be dropped for
    another, and each candidate that did not survive may have been.

    Args:
        original, converted: all boxes of one picture before suppression, ``[M, head.values]``, row
            by row the same.
        survivors: of the converted model.
        settings: of the passport.
    """
    head, least, iou = heads.required(settings), settings["confidence"], settings["iou"]
    if head.ranked or head.angled or original.shape != converted.shape:
        return False
    passed = (head.first(original) > least) | (head.first(converted) > least)
    one, other = original[passed].astype(np.float64), converted[passed].astype(np.float64)
    ulp = np.spacing(np.float32(np.abs(one[:, :4]).max(initial=1)))
    # An edge is the centre and half of the size.
    moved = 1.5 * np.abs(one[:, :4] - other[:, :4]).max(initial=0) + ULPS * float(ulp)
    scores = head.confidence(one[:, 4:]) - head.confidence(other[:, 4:])
    changed = np.abs(scores).max(initial=0) + ULPS * float(np.spacing(np.float32(1)))
    if moved > MOST_PX or changed > MOST_CONFIDENCE:
        return False
    found = boxes.nms(original, head, least, None, boxes.MAX_CANDIDATES)
    candidates, kept = (rows[:, :6].astype(np.float64) for rows in (found, survivors))
    bounds = np.array([moved] * 4 + [changed, 0])
    known = all((np.abs(candidates - one) <= bounds).all(1).any() for one in kept)
    if not known or _suppresses(kept, kept, -moved, -changed, iou).any():
        return False
    full = len(kept) >= settings["max_detections"]
    sure = candidates[candidates[:, 4] > (kept[:, 4].min() if full else least) + changed]
    return bool(_suppresses(sure, kept, moved, changed, iou).any(1).all())


def _suppresses(
    mine: NDArray[Any], by: NDArray[Any], moved: float, changed: float, iou: float
) -> NDArray[np.bool_]:
    """Whether boxes ``[M, 6]`` may be dropped for others ``[K, 6]``, ``[M, K]``; with both bounds
    negative, whether they must be.

    Args:
        moved: pixels by which edges may lie elsewhere.
        changed: by how much confidences may differ.
    """
    low = np.maximum(mine[:, None, :2], by[None, :, :2])
    high = np.minimum(mine[:, None, 2:4], by[None, :, 2:4])
    shared = np.clip(high - low + 2 * moved, 0, None).prod(2)
    first, second = (np.clip(b[:, 2:4] - b[:, :2] - 2 * moved, 0, None).prod(1) for b in (mine, by))
    over = shared > iou * (first[:, None] + second - shared)
    better = by[:, 4] + changed > mine[:, None, 4]
    return np.asarray(over & better & (mine[:, None, 5] == by[:, 5]))
