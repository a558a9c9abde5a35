"""torchvision's detectors: boxes, labels and scores of one picture, suppressed by the graph."""

from __future__ import annotations

import torch
from torch import Tensor

from handlers.heads.rows import Ranked
from repack.tasks.detection.layouts.base import Layout, Probe, Rows


class Joined(Rows):
    """Three lists as one."""

    def __init__(self, head: Ranked, boxes: int, labels: int, scores: int):
        super().__init__(head)
        self.boxes, self.labels, self.scores = boxes, labels, scores

    def forward(self, *outputs: Tensor) -> Tensor:
        boxes = outputs[self.boxes]
        more = (outputs[self.scores], outputs[self.labels].to(boxes.dtype))
        return torch.cat((boxes, *(one[:, None] for one in more)), 1)[None]


class Listed(Layout):
    """Corners in pixels ``[M, 4]``, class numbers ``[M]`` and confidences ``[M]``, in any order.
    These networks normalise inside."""

    name = "listed"
    shown = "[boxes, 4], whole numbers [boxes] and [boxes]"
    batches = False

    def fit(self, probe: Probe) -> Rows | None:
        values = list(probe.outputs.values())
        kinds = [(v.ndim, v.dtype.kind) for v in values]
        if sorted(kinds) != [(1, "f"), (1, "i"), (2, "f")]:
            return None
        boxes, labels, scores = (kinds.index(k) for k in ((2, "f"), (1, "i"), (1, "f")))
        if values[boxes].shape[1] != 4 or len({len(v) for v in values}) != 1:
            return None
        most = int(values[labels].max(initial=0)) + 1
        return Joined(Ranked(classes=max(probe.classes, most)), boxes, labels, scores)
