"""RT-DETR as Ultralytics exports it: one row a query, boxes as shares of the picture."""

from __future__ import annotations

import torch
from torch import Tensor

from handlers.heads.rows import Ranked
from repack.tasks.detection.layouts.base import Layout, Probe, Rows

MOST = 2000
"""Queries of such a network, at most."""


class Scaled(Rows):
    """Each query's best class; corners in pixels."""

    size: Tensor

    def __init__(self, head: Ranked, sides: tuple[int, int]):
        super().__init__(head)
        height, width = sides
        self.register_buffer("size", torch.tensor([width, height] * 2, dtype=torch.float32))

    def forward(self, *outputs: Tensor) -> Tensor:
        rows = outputs[0]
        best, kind = rows[..., 4:].max(2, keepdim=True)
        return torch.cat((corners(rows[..., :4]) * self.size, best, kind.to(rows.dtype)), 2)


class Best(Scaled):
    """The same of rows with a confidence and a class number."""

    def forward(self, *outputs: Tensor) -> Tensor:
        rows = outputs[0]
        return torch.cat((corners(rows[..., :4]) * self.size, rows[..., 4:]), 2)


def corners(boxes: Tensor) -> Tensor:
    """Centre, width and height -> x1, y1, x2, y2."""
    half = boxes[..., 2:4] / 2
    return torch.cat((boxes[..., :2] - half, boxes[..., :2] + half), -1)


class Queries(Layout):
    """Centre, width and height as shares 0..1 of the picture, and the classes' scores 0..1; or, as
    later releases have it, the best pairs of query and class, each with confidence and class
    number."""

    name = "queries"
    shown = "[N, queries, 4 + classes], or [N, queries, 6]"
    mode = "stretch"

    def fit(self, probe: Probe) -> Rows | None:
        found = probe.rows
        if found is None or found.shape[2] < 5 or found.shape[1] > MOST or found.min() < 0:
            return None
        if found.shape[2] == 6 and not (found[..., 5] % 1).any() and found[..., :5].max() <= 1:
            most = int(found[..., 5].max(initial=0)) + 1
            return Best(Ranked(classes=max(probe.classes, most)), probe.sides)
        if found.max() > 1:
            return None
        return Scaled(Ranked(classes=found.shape[2] - 4), probe.sides)
