"""YOLOv5, v7 and YOLOv5-face: three anchors a cell, boxes, objectness and class scores decoded."""

from __future__ import annotations

import torch
from torch import Tensor

from handlers.heads.rows import Masked, Posed, Scored
from repack.tasks.detection.layouts.base import STRIDES, Layout, Probe, Rows, cells

ANCHORS = 3
POINTS = 5
"""Landmarks of a face, by YOLOv5-face."""


class Multiplied(Rows):
    """Rows of boxes, objectness and class scores, with the two multiplied; then the extras."""

    def forward(self, *outputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.multiplied(outputs[0])

    def multiplied(self, rows: Tensor) -> Tensor:
        shares = (4, 1, self.head.classes, self.head.extras)
        boxes, both, scores, extras = rows.split(shares, 2)
        return torch.cat((boxes, scores * both, extras), 2)


class Objectness(Layout):
    """Centre, width and height in pixels, objectness and the classes' scores 0..1. An export may
    have the raw maps behind it, which are left out."""

    name = "objectness"
    shown = "[N, 3 x cells, 5 + classes]"
    iou = 0.45

    def fit(self, probe: Probe) -> Rows | None:
        shape = next(iter(probe.outputs.values())).shape
        return Multiplied(Scored(classes=shape[2] - 5)) if anchored(probe, shape) else None


def anchored(probe: Probe, shape: tuple[int, ...]) -> bool:
    """Whether an output has a row for each anchor of each cell, of a box and a class at least."""
    if len(shape) != 3 or shape[2] < 6:
        return False
    return shape[1] in {ANCHORS * cells(probe.sides, s) for s in STRIDES}


class MultipliedPoints(Multiplied):
    """Points stand between objectness and class scores; they get a confidence of 1."""

    def forward(self, *outputs: Tensor) -> Tensor:
        box, points, scores = outputs[0].split((5, 2 * POINTS, self.head.classes), 2)
        places = points.unflatten(2, (POINTS, 2))
        whole = torch.cat((places, torch.ones_like(places[..., :1])), 3).flatten(2)
        return self.multiplied(torch.cat((box, scores, whole), 2))


class ObjectnessPoints(Layout):
    """The same, with five points, x and y in pixels, between objectness and the classes' scores."""

    name = "objectness-points"
    shown = "[N, 3 x cells, 5 + 10 + classes]"
    task = "pose"
    iou = 0.45

    def fit(self, probe: Probe) -> Rows | None:
        shape = next(iter(probe.outputs.values())).shape
        classes = shape[2] - 5 - 2 * POINTS if anchored(probe, shape) else 0
        return MultipliedPoints(Posed(classes=classes, extras=3 * POINTS)) if classes > 0 else None


class MultipliedMasks(Multiplied):
    def forward(self, *outputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.multiplied(outputs[0]), outputs[1]


class ObjectnessMasks(Layout):
    """The same, and behind the scores the weights of prototypes, the second output."""

    name = "objectness-masks"
    shown = "[N, 3 x cells, 5 + classes + k] and [N, k, h, w]"
    task = "instances"
    iou = 0.45

    def fit(self, probe: Probe) -> Rows | None:
        values = list(probe.outputs.values())
        if len(values) < 2 or values[1].ndim != 4 or not anchored(probe, values[0].shape):
            return None
        k = values[1].shape[1]
        classes = values[0].shape[2] - 5 - k
        return MultipliedMasks(Masked(classes=classes, extras=k)) if classes > 0 else None
