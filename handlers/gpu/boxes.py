"""A YOLOv5 detector's boxes, decoded and suppressed on the GPU, all pictures of a batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PLANE = 7680.0
"""Pixels between the copies of the plane that keep pictures and classes apart in one pass."""


class Decoder:
    """Finds the boxes in a detector's maps.

    A lone request waits for every call into PyTorch, so the three scales go through as one list of
    cells, and only those whose objectness passes are decoded.

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
        self.anchors = anchors
        self.strides = strides
        self.device = device
        self.confidence = float(settings["confidence"])
        self.iou = float(settings["iou"])
        self.limit = int(settings["max_detections"])
        self.logit = math.log(self.confidence / (1 - self.confidence))
        self._grids: dict[tuple[tuple[int, int], ...], Tensor] = {}

    def find(self, maps: Sequence[Tensor]) -> Tensor:
        """As ``handlers.boxes.nms`` for every picture.

        Args:
            maps: per scale ``[N, anchors, H, W, 5 + classes]``, before the sigmoid; memory in the
                order of a convolution's output, so that flattening H and W copies nothing.

        Returns:
            ``[M, 7]`` float32 on the GPU: picture, x1, y1, x2, y2 (pixels of the model's input),
            confidence, class; most confident first within each picture.
        """
        grid = self._grid(tuple((m.shape[2], m.shape[3]) for m in maps))
        values = torch.cat([m.permute(0, 1, 4, 2, 3).flatten(3) for m in maps], 3)
        picture, anchor, cell = (values[:, :, 4] > self.logit).nonzero(as_tuple=True)
        y = values[picture, anchor, :, cell].float().sigmoid()
        place = grid[anchor, cell]
        centre = (y[:, 0:2] * 2 + place[:, 0:2]) * place[:, 2:3]
        half = (y[:, 2:4] * 2) ** 2 * place[:, 3:5]
        best, kind = (y[:, 5:] * y[:, 4:5]).max(1, keepdim=True)
        rows = torch.cat((picture[:, None], centre - half, centre + half, best, kind), 1)
        rows = rows[rows[:, 5] > self.confidence]
        return self._best(rows[self.kept(rows)])

    def kept(self, rows: Tensor) -> Tensor:
        """The rows that survive, most confident first: torchvision's suppression.

        In 64 bits: the offsets of many pictures and classes would cost 32-bit pixels their
        fractions.
        """
        from torchvision.ops import nms

        wide = rows.double()
        apart = wide[:, [6, 0, 6, 0]] * PLANE
        found: Tensor = nms(wide[:, 1:5] + apart, wide[:, 5], self.iou)
        return found

    def _grid(self, sides: tuple[tuple[int, int], ...]) -> Tensor:
        """``[anchors, cells, 5]``: cell x and y (less one half), stride, half the anchor (px)."""
        if sides not in self._grids:
            scales = []
            for (height, width), stride, anchors in zip(
                sides, self.strides, self.anchors, strict=True
            ):
                grid = torch.empty(len(anchors), height, width, 5)
                grid[..., 0] = torch.arange(width) - 0.5
                grid[..., 1] = torch.arange(height)[:, None] - 0.5
                grid[..., 2] = stride
                grid[..., 3:] = torch.tensor(anchors)[:, None, None, :] / 2
                scales.append(grid.flatten(1, 2))
            self._grids[sides] = torch.cat(scales, 1).to(self.device)
        return self._grids[sides]

    def _best(self, rows: Tensor) -> Tensor:
        """By picture, then by confidence; at most ``max_detections`` of each picture."""
        rows = rows[rows[:, 0].argsort(stable=True)]
        if len(rows) <= self.limit:
            return rows
        pictures = rows[:, 0].contiguous()
        first = torch.searchsorted(pictures, pictures)
        place = torch.arange(len(rows), device=rows.device) - first
        return rows[place < self.limit]
