"""YOLOv8, 9, 11 and 12, and YOLOv5u: one column a cell, boxes and class scores decoded."""

from __future__ import annotations

from torch import Tensor

from handlers.heads.rows import Scored
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
        if found is None or found.shape[1] < 5:
            return None
        if found.shape[2] not in {cells(probe.sides, s) for s in STRIDES}:
            return None
        return Columns(Scored(classes=found.shape[1] - 4))
