"""RF-DETR, D-FINE and Hugging Face's RT-DETR: boxes and logits of every query."""

from __future__ import annotations

import torch
from torch import Tensor

from handlers.heads.rows import Ranked
from repack.options import IMAGENET_MEAN, IMAGENET_STD
from repack.tasks.detection.layouts.base import Layout, Probe, Rows
from repack.tasks.detection.layouts.queries import MOST, corners

KEPT = 300
"""Pairs of query and class that are kept, as these projects do."""


class Chosen(Rows):
    """The best pairs of query and class, by the sigmoid of their logits."""

    size: Tensor

    def __init__(self, head: Ranked, sides: tuple[int, int], boxes_at: int, kept: int):
        super().__init__(head)
        height, width = sides
        self.boxes_at = boxes_at
        self.kept = kept
        self.register_buffer("size", torch.tensor([width, height] * 2, dtype=torch.float32))

    def forward(self, *outputs: Tensor) -> Tensor:
        boxes, logits = outputs[self.boxes_at], outputs[1 - self.boxes_at]
        classes = logits.shape[2]
        best, which = logits.sigmoid().flatten(1).topk(self.kept, 1)
        query = torch.div(which, classes, rounding_mode="floor")
        kind = (which - query * classes)[..., None].to(boxes.dtype)
        mine = boxes.gather(1, query[..., None].expand(-1, -1, 4))
        return torch.cat((corners(mine) * self.size, best[..., None], kind), 2)


class Detr(Layout):
    """Two outputs: centre, width and height as shares 0..1 of the picture; a logit a class."""

    name = "detr"
    shown = "[N, queries, 4] and [N, queries, classes]"
    mode = "stretch"
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    stated = False

    def fit(self, probe: Probe) -> Rows | None:
        values = list(probe.outputs.values())
        if len(values) != 2 or any(v.ndim != 3 for v in values):
            return None
        queries = values[0].shape[1]
        if values[1].shape[1] != queries or queries > MOST:
            return None
        shares = [v.shape[2] == 4 and v.min() >= 0 and v.max() <= 1 for v in values]
        if sum(shares) != 1:
            return None
        at = shares.index(True)
        classes = values[1 - at].shape[2]
        return Chosen(Ranked(classes=classes), probe.sides, at, min(KEPT, queries * classes))
