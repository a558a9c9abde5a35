"""A YOLOv5 detector's boxes, decoded and suppressed on the GPU, all pictures of a batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handlers.boxes import CANDIDATES

PLANE = 7680.0
"""Pixels between the copies of the plane that keep pictures and classes apart in one pass."""

MANY = 4096
"""Boxes from which on suppression goes to the GPU: its work grows with their square."""


class Decoder:
    """Finds the boxes in a detector's maps.

    Two ways to the same boxes. ``candidates`` has results of fixed size, so it queues without
    waiting and goes into a CUDA graph; ``chosen`` then takes what passes. A picture with more boxes
    above the threshold than ``CANDIDATES`` goes through ``find``, which looks at all of them.

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
        values, grid = self._cells(maps)
        picture, anchor, cell = (values[:, :, 4] > self.logit).nonzero(as_tuple=True)
        found = _decoded(values[picture, anchor, :, cell], grid[anchor, cell])
        rows = torch.cat((picture[:, None], found), 1)
        return self.suppressed(rows[rows[:, 5] > self.confidence])

    def candidates(self, maps: Sequence[Tensor]) -> Tensor:
        """The boxes of highest objectness, decoded; nothing here waits for the GPU.

        Returns:
            ``[N, K, 7]`` float32 on the GPU, K at most ``CANDIDATES``: objectness before the
            sigmoid (highest first), x1, y1, x2, y2, confidence, class.
        """
        values, grid = self._cells(maps)
        n, anchors, _, cells = values.shape
        objectness = values[:, :, 4].reshape(n, anchors * cells)
        best, place = objectness.topk(min(CANDIDATES, anchors * cells), dim=1)
        anchor, cell = place // cells, place % cells
        picture = torch.arange(n, device=values.device)[:, None]
        found = _decoded(
            values[picture, anchor, :, cell].flatten(0, 1), grid[anchor, cell].flatten(0, 1)
        )
        return torch.cat((best.float()[:, :, None], found.view(n, -1, 6)), 2)

    def chosen(self, candidates: Tensor) -> Tensor | None:
        """What ``find`` gives for these pictures, or None where they may have more boxes.

        Args:
            candidates: as from ``candidates``, in the host's memory.
        """
        passed = candidates[:, :, 0] > self.logit
        if candidates.shape[1] == CANDIDATES and bool(passed[:, -1].any()):
            return None
        picture, which = (passed & (candidates[:, :, 5] > self.confidence)).nonzero(as_tuple=True)
        rows = torch.cat((picture[:, None], candidates[picture, which, 1:]), 1)
        if len(rows) > MANY:
            rows = rows.to(self.device)
        return self.suppressed(rows).cpu()

    def suppressed(self, rows: Tensor) -> Tensor:
        """The rows that survive: by picture, then by confidence, at most so many of each."""
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

    def _cells(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """``[N, anchors, 5 + classes, cells]`` of all scales, and their grid."""
        grid = self._grid(tuple((m.shape[2], m.shape[3]) for m in maps))
        return torch.cat([m.permute(0, 1, 4, 2, 3).flatten(3) for m in maps], 3), grid

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


def _decoded(values: Tensor, place: Tensor) -> Tensor:
    """``[M, 5 + classes]`` before the sigmoid and ``[M, 5]`` of the grid -> corners, confidence,
    class: ``[M, 6]`` float32."""
    y = values.float().sigmoid()
    centre = (y[:, 0:2] * 2 + place[:, 0:2]) * place[:, 2:3]
    half = (y[:, 2:4] * 2) ** 2 * place[:, 3:5]
    best, kind = (y[:, 5:] * y[:, 4:5]).max(1, keepdim=True)
    return torch.cat((centre - half, centre + half, best, kind), 1)
