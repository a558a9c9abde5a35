"""Boxes of a detector: suppression of duplicates, and back to the picture's own pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from handlers import rectangles
from handlers.errors import Unprocessable
from handlers.heads import Head
from handlers.letterbox import Letterbox
from handlers.parameters import Limits

Boxes = NDArray[np.float32]
"""``[M, 6 + k]``: x1, y1, x2, y2 in pixels, confidence in 0..1, class index; then the k more values
of a head that has ``extras``."""

MAX_CANDIDATES = 30_000
"""Most confident boxes that enter suppression."""

CANDIDATES = 512
"""Boxes of each picture, by ``head.first``, that a GPU gives without being waited for."""

COLUMNS = 7
"""Values of a box that a GPU gives, float32: four edges, confidence and class come last."""

FEW = 300
"""Boxes up to which all their overlaps at once are the faster way: 60 took 0.08 ms instead of 0.34,
200 0.62 instead of 0.94 (one core of an AMD EPYC)."""


def nms(
    prediction: NDArray[np.float32],
    head: Head,
    confidence: float,
    iou: float | None,
    max_detections: int,
) -> Boxes:
    """Non-maximum suppression within each class, best class per box: greedy, or that of rectangles
    (``handlers.rectangles.distinct``) where the head is angled.

    Args:
        prediction: ``[B, head.values]`` float32, decoded: centre x and y, width and height in
            pixels, and the rest in 0..1; of a ranked head, corners, confidence and class.
        confidence: boxes of at most this confidence are dropped.
        iou: a box is dropped when its overlap with a better one of its class is larger than this;
            not read for a ranked head.
        max_detections: the best so many are kept.

    Returns:
        ``[M, 6 + k]``, most confident first.
    """
    prediction = prediction[head.first(prediction) > confidence]
    if head.ranked:
        return suppressed(prediction.astype(np.float32), None, max_detections)
    scores = head.confidence(prediction[:, 4:])
    classes = scores.argmax(1) if len(scores) else np.zeros(0, np.int64)
    best = scores[np.arange(len(scores)), classes]
    keep = best > confidence
    centre, half = prediction[keep, 0:2], prediction[keep, 2:4] / 2
    more = prediction[keep, head.values - head.extras :]
    found: Boxes = np.concatenate(
        (centre - half, centre + half, best[keep, None], classes[keep, None], more), axis=1
    ).astype(np.float32)
    if not head.angled or iou is None:
        return suppressed(found, iou, max_detections)
    found = suppressed(found, None, MAX_CANDIDATES)
    return found[rectangles.distinct(found[:, 6:], found[:, 5], iou, max_detections)]


def suppressed(found: Boxes, iou: float | None, max_detections: int) -> Boxes:
    """The boxes that survive greedy suppression within each class, most confident first; without
    ``iou`` all of them do."""
    found = found[np.argsort(-found[:, 4], kind="stable")[:MAX_CANDIDATES]]
    if iou is None:
        return found[:max_detections]
    greedy = _greedy_few if len(found) <= FEW else _greedy
    return found[greedy(found, iou, max_detections)]


def within(found: Boxes, limits: Limits) -> Boxes:
    """Of boxes, most confident first, those that a request's own limits leave; overlaps are as they
    are."""
    passed = found[found[:, 4] > limits.confidence]
    if limits.classes:
        passed = passed[np.isin(passed[:, 5], limits.classes)]
    return passed[: limits.max_detections]


def overlaps_asked(limits: Sequence[Limits | None], packed: float, crowded: bool) -> list[float]:
    """The overlap for each picture's suppression on a GPU.

    Args:
        crowded: a picture may have more boxes than the candidates that were handed over.

    Raises:
        Unprocessable: crowded, and a request asks for another overlap than the packed one, by which
            alone all boxes are suppressed there.
    """
    found = [packed if one is None or one.iou is None else one.iou for one in limits]
    if crowded and any(iou != packed for iou in found):
        raise Unprocessable(
            f"iou came with a picture of more than {CANDIDATES} candidates; expected none: so many "
            f"are suppressed on the GPU, by the packed {packed:g}"
        )
    return found


def _greedy_few(found: Boxes, threshold: float, limit: int) -> list[int]:
    """As ``_greedy``, by the overlaps of all pairs at once: their number grows with the square."""
    left, top, right, bottom, _, kinds = np.ascontiguousarray(found[:, :6].T)
    area = (right - left) * (bottom - top)
    shared = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    high = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    np.clip(shared, 0, None, out=shared)
    shared *= np.clip(high, 0, None, out=high)
    apart = shared <= threshold * (area[:, None] + area - shared)
    apart |= kinds[:, None] != kinds
    alive = np.ones(len(found), bool)
    kept: list[int] = []
    for i in range(len(found)):
        if alive[i]:
            kept.append(i)
            if len(kept) == limit:
                break
            alive &= apart[i]
    return kept


def _greedy(found: Boxes, threshold: float, limit: int) -> list[int]:
    corners, kinds = found[:, :4], found[:, 5]
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    left = np.arange(len(found))
    kept: list[int] = []
    while left.size and len(kept) < limit:
        first, left = left[0], left[1:]
        kept.append(int(first))
        low = np.maximum(corners[first, :2], corners[left, :2])
        high = np.minimum(corners[first, 2:], corners[left, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        apart = shared <= threshold * (area[first] + area[left] - shared)
        left = left[apart | (kinds[left] != kinds[first])]
    return kept


def to_picture(boxes: Boxes, place: Letterbox, width: int, height: int) -> Boxes:
    """From pixels of the letterboxed input to pixels of the picture, cut at its borders."""
    result: Boxes = boxes.copy()
    result[:, [0, 2]] = ((boxes[:, [0, 2]] - place.left) / place.scale_x).clip(0, width)
    result[:, [1, 3]] = ((boxes[:, [1, 3]] - place.top) / place.scale_y).clip(0, height)
    return result
