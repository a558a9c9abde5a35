"""YOLOv8-obb and YOLO11-obb: boxes at an angle, one column a cell."""

from __future__ import annotations

import torch
from torch import Tensor

from handlers.heads.rows import Oriented
from handlers.rectangles import VALUES
from repack.tasks.detection.layouts.anchor_free import columns
from repack.tasks.detection.layouts.base import Layout, Probe, Rows


class Around(Rows):
    """The upright box around each rectangle, the scores, and the rectangle itself."""

    def forward(self, *outputs: Tensor) -> Tensor:
        centre, size, scores, angle = outputs[0].transpose(1, 2).split((2, 2, self.classes, 1), 2)
        cos, sin = angle.cos().abs(), angle.sin().abs()
        width, height = size.split(1, 2)
        reach = torch.cat((width * cos + height * sin, width * sin + height * cos), 2)
        return torch.cat((centre, reach, scores, centre, size, angle), 2)

    @property
    def classes(self) -> int:
        return self.head.classes


class AnchorFreeAngle(Layout):
    """Centre, width and height in pixels, the classes' scores 0..1 and the angle in radians."""

    name = "anchor-free-angle"
    shown = "[N, 4 + classes + 1, cells]"
    task = "oriented"

    def fit(self, probe: Probe) -> Rows | None:
        found = probe.rows
        if found is None or found.shape[1] < 6 or not columns(probe, found.shape):
            return None
        return Around(Oriented(classes=found.shape[1] - 5, extras=VALUES))
