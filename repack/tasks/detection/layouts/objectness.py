"""YOLOv5 and YOLOv7: three anchors a cell, boxes, objectness and class scores decoded."""

from __future__ import annotations

import torch
from torch import Tensor

from handlers.heads.rows import Scored
from repack.tasks.detection.layouts.base import STRIDES, Layout, Probe, Rows, cells

ANCHORS = 3


class Multiplied(Rows):
    """Rows of boxes, objectness and class scores, with the two multiplied."""

    def forward(self, *outputs: Tensor) -> Tensor:
        rows = outputs[0]
        return torch.cat((rows[..., :4], rows[..., 5:] * rows[..., 4:5]), 2)


class Objectness(Layout):
    """Centre, width and height in pixels, objectness and the classes' scores 0..1. An export may
    have the raw maps behind it, which are left out."""

    name = "objectness"
    shown = "[N, 3 x cells, 5 + classes]"
    iou = 0.45

    def fit(self, probe: Probe) -> Rows | None:
        shape = next(iter(probe.outputs.values())).shape
        if len(shape) != 3 or shape[2] < 6:
            return None
        if shape[1] not in {ANCHORS * cells(probe.sides, s) for s in STRIDES}:
            return None
        return Multiplied(Scored(classes=shape[2] - 5))
