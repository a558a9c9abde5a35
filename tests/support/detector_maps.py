"""Random maps of a detector, and its boxes by the handlers' own suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handlers import boxes
from handlers.gpu.boxes import PLANE, Decoder
from handlers.heads import SETTING
from handlers.heads.yolov5 import YOLOv5

STRIDES = (8, 16, 32)
ANCHORS = [
    [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]],
    [[30.0, 61.0], [62.0, 45.0], [59.0, 119.0]],
    [[116.0, 90.0], [156.0, 198.0], [373.0, 326.0]],
]
CLASSES = 4
HEAD = YOLOv5(
    classes=CLASSES,
    anchors=tuple(tuple((w, h) for w, h in scale) for scale in ANCHORS),
    strides=STRIDES,
)
SETTINGS: dict[str, Any] = {
    "confidence": 0.25,
    "iou": 0.45,
    "max_detections": 300,
    SETTING: HEAD.to_setting(),
}


def maps(seed: int, batch: int, side: int, objectness: float) -> list[torch.Tensor]:
    """Per scale ``[N, 3, H, W, 9]``, seen on memory in the order of a convolution's output.

    Args:
        objectness: mean of the logit; -6 finds few boxes, 1 a crowd.
    """
    rng = np.random.default_rng(seed)
    found = []
    for stride in STRIDES:
        cells = side // stride
        raw = rng.normal(0, 1.5, (batch, 3, 5 + CLASSES, cells, cells)).astype(np.float32)
        raw[:, :, 4] += objectness
        found.append(torch.from_numpy(raw).permute(0, 1, 3, 4, 2))
    return found


def decode(raw: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """``[N, boxes, 9]`` of maps ``[N, 3, H, W, 9]``: cell by cell, as YOLOv5's authors write it."""
    scales = []
    for values, anchors, stride in zip(raw, ANCHORS, STRIDES, strict=True):
        y = (1 / (1 + np.exp(-values.astype(np.float64)))).astype(np.float32)
        for row, column in np.ndindex(*y.shape[2:4]):
            here = y[:, :, row, column]
            here[..., 0] = (here[..., 0] * 2 - 0.5 + column) * stride
            here[..., 1] = (here[..., 1] * 2 - 0.5 + row) * stride
            here[..., 2:4] = (here[..., 2:4] * 2) ** 2 * np.array(anchors)
        scales.append(y.reshape(len(y), -1, y.shape[-1]))
    return np.concatenate(scales, axis=1)


def expected(given: Sequence[torch.Tensor]) -> list[boxes.Boxes]:
    """Per picture what ``handlers.boxes.nms`` keeps."""
    predictions, s = decode([m.numpy() for m in given]), SETTINGS
    return [boxes.nms(p, HEAD, s["confidence"], s["iou"], s["max_detections"]) for p in predictions]


def same(want: NDArray[Any], have: NDArray[Any]) -> None:
    """The same boxes, in the same order but for equal confidences."""
    assert len(want) == len(have)
    np.testing.assert_allclose(have[:, 4], want[:, 4], atol=1e-5)
    if len(want):
        distance = np.abs(want[:, None, :4] - have[None, :, :4]).max(2)
        other_class = want[:, None, 5] != have[None, :, 5]
        nearest = np.where(other_class, np.inf, distance).min(1)
        assert nearest.max() < 0.05, nearest.max()


class OnTheCpu(Decoder):
    """Suppression by the textbook's loop, where torchvision may not be installed."""

    def kept(self, rows: torch.Tensor) -> torch.Tensor:
        values = rows.double().numpy()
        corners = values[:, 1:5] + values[:, [6, 0, 6, 0]] * PLANE
        return torch.tensor(_greedy(corners, values[:, 5], self.iou), dtype=torch.long)


def _greedy(corners: NDArray[Any], scores: NDArray[Any], iou: float) -> list[int]:
    left = np.argsort(-scores, kind="stable")
    kept = []
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    while left.size:
        first, left = left[0], left[1:]
        kept.append(int(first))
        low = np.maximum(corners[first, :2], corners[left, :2])
        high = np.minimum(corners[first, 2:], corners[left, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        left = left[shared <= iou * (area[first] + area[left] - shared)]
    return kept
