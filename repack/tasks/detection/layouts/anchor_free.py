"""YOLOv8, 9, 11 and 12, and YOLOv5u: one column a cell, boxes and class scores decoded."""

from __future__ import annotations

import torch
from torch import Tensor

from handlers.errors import KitError
from handlers.heads.rows import Masked, Posed, Scored
from repack.tasks.detection.layouts.base import STRIDES, Layout, Probe, Rows, cells


class Columns(Rows):
    def forward(self, *outputs: Tensor) -> Tensor:
        return outputs[0].transpose(1, 2)


class AnchorFree(Layout):
    """Centre, width and height in pixels, and the classes' scores 0..1."""

    name = "anchor-free"
    shown = "[N, 4 + classes, cells]"

    def fit(self, probe: Probe) -> Rows | None:
        found = probe.rows
        if found is None or not columns(probe, found.shape):
            return None
        return Columns(Scored(classes=found.shape[1] - 4))


def columns(probe: Probe, shape: tuple[int, ...]) -> bool:
    """Whether an output has a column for each cell, and rows for a box and a class at least."""
    if len(shape) != 3 or shape[1] < 5:
        return False
    return shape[2] in {cells(probe.sides, s) for s in STRIDES}


class ColumnsOfPoints(Rows):
    """Points of two values get a confidence of 1."""

    def __init__(self, head: Posed, values: int):
        super().__init__(head)
        self.values = values

    def forward(self, *outputs: Tensor) -> Tensor:
        rows = outputs[0].transpose(1, 2)
        if self.values == 3:
            return rows
        first = 4 + self.head.classes
        points = rows[..., first:].unflatten(2, (-1, 2))
        whole = torch.cat((points, torch.ones_like(points[..., :1])), 3)
        return torch.cat((rows[..., :first], whole.flatten(2)), 2)


class AnchorFreePoints(Layout):
    """The same, and points behind the scores: x and y in pixels, and where there are three values
    a confidence 0..1."""

    name = "anchor-free-points"
    shown = "[N, 4 + classes + points x 3, cells]"
    task = "pose"

    def fit(self, probe: Probe) -> Rows | None:
        found = probe.rows
        if found is None or not columns(probe, found.shape):
            return None
        rest = found.shape[1] - 4
        if probe.points is None:
            classes = probe.classes or 1
            points, values = divmod(rest - classes, 3)[0], 3
        else:
            points, values = probe.points
            classes = rest - points * values
        if values not in (2, 3) or classes < 1 or points < 1 or classes + points * values != rest:
            told = probe.points or f"{probe.classes} classes"
            raise KitError(f"{rest} values behind a box are not classes and points ({told})")
        return ColumnsOfPoints(Posed(classes=classes, extras=3 * points), values)


class ColumnsOfMasks(Rows):
    def forward(self, *outputs: Tensor) -> tuple[Tensor, ...]:
        return outputs[0].transpose(1, 2), outputs[1]


class AnchorFreeMasks(Layout):
    """The same, and behind the scores the weights of prototypes, the second output."""

    name = "anchor-free-masks"
    shown = "[N, 4 + classes + k, cells] and [N, k, h, w]"
    task = "instances"

    def fit(self, probe: Probe) -> Rows | None:
        values = list(probe.outputs.values())
        if len(values) != 2 or values[1].ndim != 4 or not columns(probe, values[0].shape):
            return None
        k = values[1].shape[1]
        classes = values[0].shape[1] - 4 - k
        return ColumnsOfMasks(Masked(classes=classes, extras=k)) if classes > 0 else None
