"""Random maps of a detector, and its boxes by the handlers' own suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handlers import boxes
from handlers.head import YOLOv5
from repack.tasks.detection.grids import Grid, decode

STRIDES = (8, 16, 32)
ANCHORS = [
    [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]],
    [[30.0, 61.0], [62.0, 45.0], [59.0, 119.0]],
    [[116.0, 90.0], [156.0, 198.0], [373.0, 326.0]],
]
SETTINGS = {"confidence": 0.25, "iou": 0.45, "max_detections": 300}
CLASSES = 4
HEAD = YOLOv5(
    classes=CLASSES,
    anchors=tuple(tuple((w, h) for w, h in scale) for scale in ANCHORS),
    strides=STRIDES,
)


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


def grids(side: int) -> list[Grid]:
    found = []
    for anchors, stride in zip(ANCHORS, STRIDES, strict=True):
        cells = side // stride
        grid = np.empty((3, cells, cells, 5), np.float32)
        grid[..., 0] = np.arange(cells)[None, None, :] - 0.5
        grid[..., 1] = np.arange(cells)[None, :, None] - 0.5
        grid[..., 2] = stride
        grid[..., 3:] = np.asarray(anchors, np.float32)[:, None, None, :]
        found.append(grid)
    return found


def expected(given: Sequence[torch.Tensor], side: int) -> list[boxes.Boxes]:
    """Per picture what ``handlers.boxes.nms`` keeps."""
    predictions = decode([m.numpy() for m in given], grids(side))
    s = SETTINGS
    limit = int(s["max_detections"])
    return [boxes.nms(p, s["confidence"], s["iou"], limit) for p in predictions]


def same(want: NDArray[Any], have: NDArray[Any]) -> None:
    """The same boxes, in the same order but for equal confidences."""
    assert len(want) == len(have)
    np.testing.assert_allclose(have[:, 4], want[:, 4], atol=1e-5)
    if len(want):
        distance = np.abs(want[:, None, :4] - have[None, :, :4]).max(2)
        other_class = want[:, None, 5] != have[None, :, 5]
        nearest = np.where(other_class, np.inf, distance).min(1)
        assert nearest.max() < 0.05, nearest.max()
