"""YOLOv10 and YOLO26, and exports with suppression inside: the best boxes, chosen by the graph."""

from __future__ import annotations

from torch import Tensor

from handlers.heads.rows import Ranked
from repack.tasks.detection.layouts.base import Layout, Probe, Rows

MOST = 5000
"""Boxes up to which a list is one of the best."""


class AsTheyAre(Rows):
    def forward(self, *outputs: Tensor) -> Tensor:
        return outputs[0]


class EndToEnd(Layout):
    """Corners in pixels, confidence 0..1 and class number."""

    name = "end-to-end"
    shown = "[N, boxes, 6]"

    def fit(self, probe: Probe) -> Rows | None:
        found = probe.rows
        if found is None or found.shape[2] != 6 or found.shape[1] > MOST:
            return None
        if (found[..., 5] % 1).any() or 0 < found[..., :4].max() <= 1:
            return None  # within one pixel all of them are shares of the picture
        most = int(found[..., 5].max(initial=0)) + 1
        return AsTheyAre(Ranked(classes=max(probe.classes, most)))
