"""How good boxes are against the truth (mAP), and how far two sets of boxes lie apart.

Boxes are arrays of rows in pixels: x1, y1, x2, y2, then score and class (predictions) or class
alone (truth). Average precision is pycocotools' own: 101 recall points, IoU 0.5 to 0.95 in steps
of 0.05, at most 100 boxes per picture and class; of points at most 20.

What counts as the overlap is that of boxes ("bbox"), of masks ("segm": intersection over union of
pixels), or object keypoint similarity ("keypoints"): over the labelled points of an object the mean
of ``exp(-d^2 / (2 s^2 k^2))``, where d is a point's distance from its label, s^2 the object's area
and k twice the point's sigma (cocodataset.org/#keypoints-eval; Lin et al., Microsoft COCO,
arXiv:1405.0312, for the boxes and masks).
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


class AveragePrecision(NamedTuple):
    """Average precision of one class, 0..1: at IoU 0.5, and the mean over IoU 0.5 to 0.95."""

    ap50: float
    ap50_95: float


class MeanAveragePrecision(NamedTuple):
    """Mean over the classes that the truth holds, 0..1, and each of them by class index."""

    map50: float
    map50_95: float
    classes: Mapping[int, AveragePrecision]


class Match(NamedTuple):
    """Two sets of boxes of one picture, paired one to one within each class.

    Attributes:
        pairs: ``int64 [K, 2]``: row in the reference, row in the candidate.
        matched: how many pairs, K.
        reference_only: how many reference boxes have no partner.
        candidate_only: how many candidate boxes have no partner.
        box_px: largest difference of a coordinate among the pairs, pixels; 0 without pairs.
        confidence: largest difference of the scores among the pairs; 0 without pairs.
        unmatched_confidence: highest score among the boxes without a partner; 0 if there are none.
            Near the confidence threshold means that a box fell on its other side.
    """

    pairs: NDArray[np.int64]
    matched: int
    reference_only: int
    candidate_only: int
    box_px: float
    confidence: float
    unmatched_confidence: float


Beside = Sequence[Sequence[Mapping[str, Any]]]
"""Per picture and box what COCO's annotations have beside the box: ``segmentation`` (run lengths of
pycocotools) or ``keypoints`` (x, y and visibility of each point), and their ``area``."""


def mean_average_precision(
    predictions: Sequence[NDArray[np.float32]],
    truths: Sequence[NDArray[np.float32]],
    overlap: str = "bbox",
    beside: tuple[Beside, Beside] | None = None,
    sigmas: Sequence[float] | None = None,
) -> MeanAveragePrecision:
    """mAP of predictions against the truth, picture by picture.

    Args:
        predictions: per picture ``float [M, 6]``: x1, y1, x2, y2, score, class.
        truths: per picture ``float [K, 5]``: x1, y1, x2, y2, class.
        overlap: "bbox", "segm" or "keypoints".
        beside: what the predictions and the truths have for that.
        sigmas: of the points; None for those of COCO's 17.

    Raises:
        ValueError: different numbers of pictures, rows of another width, or no truth at all.
    """
    if len(predictions) != len(truths):
        raise ValueError(f"{len(predictions)} pictures predicted, {len(truths)} with truth")
    found = [_rows(boxes, 6, "predictions") for boxes in predictions]
    real = [_rows(boxes, 5, "truth") for boxes in truths]
    kinds = np.unique(np.concatenate([boxes[:, 4] for boxes in real])) if real else np.zeros(0)
    if not len(kinds):
        raise ValueError("the truth holds no box: mAP needs at least one")
    if not sum(map(len, found)):
        return MeanAveragePrecision(0.0, 0.0, {int(k): AveragePrecision(0.0, 0.0) for k in kinds})
    with contextlib.redirect_stdout(io.StringIO()):
        more = beside or ([[{}] * len(b) for b in found], [[{}] * len(b) for b in real])
        evaluation = COCOeval(
            _coco(real, kinds, 4, more[1]), _coco(found, kinds, 5, more[0]), overlap
        )
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.asarray(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class], areas "all"
    by_iou = precision.mean(1)
    table = {
        int(kind): AveragePrecision(float(by_iou[0, i]), float(by_iou[:, i].mean()))
        for i, kind in enumerate(evaluation.params.catIds)
    }
    return MeanAveragePrecision(float(by_iou[0].mean()), float(by_iou.mean()), table)


def match(
    reference: NDArray[np.float32],
    candidate: NDArray[np.float32],
    iou: float = 0.5,
    pixels: float = math.inf,
) -> Match:
    """Pair two sets of boxes of one picture: same class, best overlap first, each box once.

    Args:
        reference: ``float [M, 6]``: x1, y1, x2, y2, score, class.
        candidate: ``float [K, 6]``, likewise.
        iou: least overlap of a pair, above 0 and at most 1.
        pixels: pairs whose corners lie further apart are none.

    Raises:
        ValueError: rows of another width.
    """
    first, second = _rows(reference, 6, "reference"), _rows(candidate, 6, "candidate")
    pairs = _pairs(first, second, iou)
    apart = np.abs(first[pairs[:, 0]] - second[pairs[:, 1]])
    near = apart[:, :4].max(1, initial=0.0) <= pixels
    pairs, apart = pairs[near], apart[near]
    alone = np.concatenate(
        (np.delete(first, pairs[:, 0], axis=0), np.delete(second, pairs[:, 1], axis=0))
    )
    return Match(
        pairs=pairs,
        matched=len(pairs),
        reference_only=len(first) - len(pairs),
        candidate_only=len(second) - len(pairs),
        box_px=float(apart[:, :4].max(initial=0.0)),
        confidence=float(apart[:, 4].max(initial=0.0)),
        unmatched_confidence=float(alone[:, 4].max(initial=0.0)),
    )


def overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of every box of ``first [M, 4+]`` with every box of ``second [K, 4+]``: ``[M, K]``."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:4], second[None, :, 2:4])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = [np.clip(boxes[:, 2:4] - boxes[:, :2], 0, None).prod(1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    result: NDArray[np.float64] = np.zeros_like(shared)
    np.divide(shared, union, out=result, where=union > 0)
    return result


def _pairs(
    first: NDArray[np.float64], second: NDArray[np.float64], least: float
) -> NDArray[np.int64]:
    """Pairs of row numbers ``[K, 2]``, in the order of the first column."""
    overlap = np.where(first[:, None, 5] == second[None, :, 5], overlaps(first, second), 0.0)
    rows, columns = np.nonzero(overlap >= max(least, 1e-9))
    order = np.argsort(-overlap[rows, columns], kind="stable")
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in partner and column not in taken:
            partner[row] = column
            taken.add(column)
    return np.array(sorted(partner.items()), np.int64).reshape(-1, 2)


def _rows(boxes: NDArray[np.float32], width: int, what: str) -> NDArray[np.float64]:
    rows = np.asarray(boxes, np.float64)
    if rows.size == 0:
        return np.zeros((0, width))
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"{what} of shape {list(rows.shape)}: expected rows of {width} values")
    return rows


def _coco(
    pictures: Sequence[NDArray[np.float64]],
    kinds: NDArray[np.float64],
    column: int,
    beside: Beside,
) -> Any:
    """pycocotools' index of the boxes; ``column`` holds the class, the one before it the score."""
    annotations: list[dict[str, object]] = []
    for picture, rows in enumerate(pictures):
        for (x1, y1, x2, y2, *rest), more in zip(rows.tolist(), beside[picture], strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture,
                    "category_id": int(rest[-1]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    **({"score": rest[0]} if column == 5 else {}),
                    **more,
                }
            )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "height": 0, "width": 0} for i in range(len(pictures))],
        "categories": [{"id": int(kind)} for kind in kinds],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
