"""Average precision without third-party packages, to follow a training run.

The figures that are reported come from ``evaluate.py``, which uses pycocotools; this one follows
the same definition and runs where the training runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repack.networks.yolov5 import YOLOv5

IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (``[..., K, M]``) of all pairs of ``a [..., K, 4]`` and ``b [..., M, 4]``, both xyxy."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    areas = [(x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b)]
    return overlap / (areas[0][..., :, None] + areas[1][..., None, :] - overlap + 1e-9)


def suppress(
    predictions: Tensor, confidence: float = 0.001, iou: float = 0.6, most: int = 100
) -> Tensor:
    """Non-maximum suppression by class of a whole batch at once.

    Args:
        predictions: ``float [N, boxes, 5 + classes]``, the network's evaluation output.
        confidence: least score (objectness times class score) that is kept.
        iou: a box is dropped when it overlaps a better one of its class by more.
        most: boxes kept per picture.

    Returns:
        ``float [N, most, 6]``: x1, y1, x2, y2, score, class; rows that are no box have score 0.
    """
    scores, kinds = (predictions[..., 5:] * predictions[..., 4:5]).max(2)
    scores, order = scores.topk(min(3 * most, scores.shape[1]), dim=1)
    kinds = kinds.gather(1, order)
    rough = predictions[..., :4].gather(1, order[..., None].expand(-1, -1, 4))
    boxes = torch.cat((rough[..., :2] - rough[..., 2:] / 2, rough[..., :2] + rough[..., 2:] / 2), 2)
    beats = pairwise_iou(boxes, boxes) > iou
    beats &= kinds[:, :, None] == kinds[:, None, :]
    beats = beats.triu(1)
    keep = torch.ones_like(scores, dtype=torch.bool)
    for _ in range(scores.shape[1]):
        kept = ~(beats & keep[:, :, None]).any(1)
        if torch.equal(kept, keep):
            break
        keep = kept
    scores = scores * keep * (scores >= confidence)
    scores, order = scores.topk(min(most, scores.shape[1]), dim=1)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    return torch.cat(
        (boxes, scores[..., None], kinds.gather(1, order)[..., None].to(boxes.dtype)), 2
    )


@torch.inference_mode()
def predict(module: YOLOv5, pictures: Tensor, batch: int) -> NDArray[np.float32]:
    """Boxes of every picture (``uint8 [N, 3, H, W]``, on any device): ``float32 [N, most, 6]``."""
    device = next(module.parameters()).device
    answers = []
    for start in range(0, len(pictures), batch):
        x = pictures[start : start + batch].to(device).float() / 255
        raw = module(x.contiguous(memory_format=torch.channels_last))
        answers.append(suppress(raw).cpu())
    return torch.cat(answers).numpy()


def _matches(found: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which boxes (``[M, 4]``, best first) hit which IoU threshold: ``bool [M, thresholds]``."""
    hits = np.zeros((len(found), len(IOUS)), bool)
    free = np.ones((len(IOUS), len(truth)), bool)
    if not len(found) or not len(truth):
        return hits
    overlaps = pairwise_iou(torch.from_numpy(found), torch.from_numpy(truth)).numpy()
    for i, overlap in enumerate(overlaps):
        usable = np.where(free & (overlap >= IOUS[:, None]), overlap, 0)
        best = usable.argmax(1)
        hits[i] = usable[np.arange(len(IOUS)), best] > 0
        free[np.flatnonzero(hits[i]), best[hits[i]]] = False
    return hits


def average_precision(
    predictions: NDArray[np.float32], targets: NDArray[np.float32], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """AP at IoU 0.5 and averaged over 0.5 to 0.95, per class that occurs and under "all".

    Args:
        predictions: ``float32 [N, M, 6]``: x1, y1, x2, y2, score (0 in unused rows), class.
        targets: ``float32 [N, K, 5]``: class (-1 in unused rows), x1, y1, x2, y2.
        names: the classes' names.
    """
    table: dict[str, tuple[float, float]] = {}
    for kind, name in enumerate(names):
        scores, hits, total = [], [], 0
        for found, truth in zip(predictions, targets, strict=True):
            mine = found[(found[:, 5] == kind) & (found[:, 4] > 0)]
            real = truth[truth[:, 0] == kind, 1:]
            total += len(real)
            scores.append(mine[:, 4])
            hits.append(_matches(mine[:, :4], real))
        if total:
            order = np.argsort(-np.concatenate(scores), kind="stable")
            per_iou = _interpolated(np.concatenate(hits)[order], total)
            table[name] = float(per_iou[0]), float(per_iou.mean())
    values = np.array(list(table.values())).reshape(-1, 2)
    fifty, both = values.mean(0).tolist() if len(values) else (0.0, 0.0)
    table["all"] = fifty, both
    return table


def _interpolated(hits: NDArray[np.bool_], total: int) -> NDArray[np.float64]:
    """101-point average precision per threshold from ``hits [M, thresholds]``, best score first."""
    good = hits.cumsum(0)
    recall = good / total
    precision = good / np.arange(1, len(hits) + 1)[:, None]
    precision = np.maximum.accumulate(precision[::-1], 0)[::-1]
    areas = []
    for r, p in zip(recall.T, precision.T, strict=True):
        at = np.searchsorted(r, _RECALLS, side="left")
        areas.append(np.append(p, 0.0)[np.minimum(at, len(p))].mean())
    return np.array(areas)
