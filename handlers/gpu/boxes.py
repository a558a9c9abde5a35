"""A YOLOv5 detector's boxes, decoded and suppressed on the GPU, all pictures of a batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

CLASS_OFFSET = 7680.0
"""Pixels between the copies of the plane that keep pictures and classes apart in one pass."""


class Decoder:
    """Finds the boxes in raw maps.

    Args:
        anchors: per scale its anchors' widths and heights in pixels.
        strides: pixels per cell, per scale.
        settings: "confidence", "iou" and "max_detections" of the passport.
    """

    def __init__(
        self,
        anchors: Sequence[Sequence[Sequence[float]]],
        strides: Sequence[int],
        settings: dict[str, Any],
        device: torch.device,
    ):
        self.anchors = [torch.tensor(a, dtype=torch.float32, device=device) for a in anchors]
        self.strides = strides
        self.confidence = float(settings["confidence"])
        self.iou = float(settings["iou"])
        self.limit = int(settings["max_detections"])
        self.logit = math.log(self.confidence / (1 - self.confidence))

    def find(self, maps: Sequence[Tensor]) -> Tensor:
        """As ``handlers.boxes.nms`` for every picture.

        Args:
            maps: per scale ``[N, anchors, H, W, 5 + classes]``, before the sigmoid.

        Returns:
            ``[M, 7]`` float32 on the GPU: picture, x1, y1, x2, y2 (pixels of the model's input),
            confidence, class; most confident first within each picture.
        """
        rows = torch.cat([self._scale(m, i) for i, m in enumerate(maps)])
        rows = rows[rows[:, 5] > self.confidence]
        return self._best(rows[self._kept(rows)])

    def _scale(self, raw: Tensor, scale: int) -> Tensor:
        """``[K, 7]`` of one scale: the cells whose objectness passes."""
        picture, anchor, y, x = (raw[..., 4] > self.logit).nonzero(as_tuple=True)
        values = raw[picture, anchor, y, x].float().sigmoid()
        cell = torch.stack((x, y), 1).float() - 0.5
        centre = (values[:, 0:2] * 2 + cell) * self.strides[scale]
        half = (values[:, 2:4] * 2) ** 2 * self.anchors[scale][anchor] / 2
        best, kind = (values[:, 5:] * values[:, 4:5]).max(1)
        return torch.cat(
            (picture[:, None].float(), centre - half, centre + half, best[:, None],
             kind[:, None].float()), 1,
        )  # fmt: skip

    def _kept(self, rows: Tensor) -> Tensor:
        from torchvision.ops import nms

        # In 64 bits: offsets of many pictures and classes would cost 32-bit pixels their fractions.
        apart = rows[:, [6, 0, 6, 0]].double() * CLASS_OFFSET
        kept: Tensor = nms(rows[:, 1:5].double() + apart, rows[:, 5].double(), self.iou)
        return kept

    def _best(self, rows: Tensor) -> Tensor:
        """By picture, then by confidence; at most ``max_detections`` of each picture."""
        rows = rows[rows[:, 5].argsort(descending=True, stable=True)]
        rows = rows[rows[:, 0].argsort(stable=True)]
        if len(rows) <= self.limit:
            return rows
        first = torch.searchsorted(rows[:, 0].contiguous(), rows[:, 0].contiguous())
        place = torch.arange(len(rows), device=rows.device) - first
        return rows[place < self.limit]
