"""YOLOX: one row a cell with objectness; decoded in the graph or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handlers.heads.rows import Scored
from repack.tasks.detection.layouts.base import STRIDES, Layout, Probe, Rows, cells
from repack.tasks.detection.layouts.objectness import Multiplied

NEAR = 4.0
"""Strides from its cell up to which most decoded centres lie; raw ones lie at the origin."""


class Raw(Multiplied):
    """Centres as distances from the cell and logarithms of sizes, both in strides: YOLOX's head
    without ``decode_in_inference``."""

    cell: Tensor
    stride: Tensor

    def __init__(self, head: Scored, cell: NDArray[Any], stride: NDArray[Any]):
        super().__init__(head)
        self.register_buffer("cell", torch.from_numpy(cell))
        self.register_buffer("stride", torch.from_numpy(stride))

    def forward(self, *outputs: Tensor) -> Tensor:
        rows = outputs[0]
        centre = (rows[..., :2] + self.cell) * self.stride
        size = rows[..., 2:4].exp() * self.stride
        return self.multiplied(torch.cat((centre, size, rows[..., 4:]), 2))


class YOLOX(Layout):
    """Trained on BGR pictures of values 0 to 255, at the left and the top of grey."""

    name = "yolox"
    shown = "[N, cells, 5 + classes]"
    mode = "corner"
    std = (1 / 255, 1 / 255, 1 / 255)
    bgr = True
    iou = 0.45
    stated = False

    def fit(self, probe: Probe) -> Rows | None:
        found = probe.rows
        if found is None or found.shape[2] < 6:
            return None
        strides = next((s for s in STRIDES if cells(probe.sides, s) == found.shape[1]), None)
        if strides is None:
            return None
        head = Scored(classes=found.shape[2] - 5)
        cell, stride = grid(probe.sides, strides)
        off = np.median(np.abs(found[0, :, :2] / stride - cell))
        return Multiplied(head) if off < NEAR else Raw(head, cell, stride)


def grid(sides: tuple[int, int], strides: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Column and row of every cell ``[cells, 2]``, and its stride ``[cells, 1]``, float32."""
    places, steps = [], []
    for stride in strides:
        height, width = -(-sides[0] // stride), -(-sides[1] // stride)
        y, x = np.mgrid[:height, :width]
        places.append(np.stack((x, y), 2).reshape(-1, 2))
        steps.append(np.full((height * width, 1), stride))
    return np.concatenate(places).astype(np.float32), np.concatenate(steps).astype(np.float32)
