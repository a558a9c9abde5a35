"""Where each of a YOLOv5 detector's raw values lies in the picture, and the boxes they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repack.networks.yolov5 import STRIDES, Detect

Grid = NDArray[np.float32]
"""``[anchors, H, W, 5]``: cell x and y (less one half), stride, anchor width and height (px)."""


def grids(head: Detect, side: int) -> list[Grid]:
    """The grids of the three scales for square pictures of ``side`` pixels."""
    found = []
    for anchors, stride in zip(head.anchors.numpy(), STRIDES, strict=True):
        cells = side // stride
        grid = np.empty((len(anchors), cells, cells, 5), np.float32)
        grid[..., 0] = np.arange(cells)[None, None, :] - 0.5
        grid[..., 1] = np.arange(cells)[None, :, None] - 0.5
        grid[..., 2] = stride
        grid[..., 3:] = (anchors * stride)[:, None, None, :]
        found.append(grid)
    return found


def decode(raw: Sequence[NDArray[Any]], where: Sequence[Grid]) -> NDArray[np.float32]:
    """Boxes of raw maps (per scale ``[N, anchors, H, W, 5 + classes]``) as the network gives them.

    Returns:
        ``[N, boxes, 5 + classes]`` float32: centre, size, objectness, class scores.
    """
    scales = []
    for values, grid in zip(raw, where, strict=True):
        y = 1 / (1 + np.exp(-values.astype(np.float32)))
        y[..., 0:2] = (y[..., 0:2] * 2 + grid[..., 0:2]) * grid[..., 2:3]
        y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * grid[..., 3:5]
        scales.append(y.reshape(len(y), -1, y.shape[-1]))
    return np.concatenate(scales, axis=1)
