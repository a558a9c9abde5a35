"""A detector's boxes, decoded and suppressed on the GPU, all pictures of a batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handlers.boxes import CANDIDATES
from handlers.heads import Head

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
        head: what ends the model.
        settings: "confidence", "iou" and "max_detections" of the passport.
    """

    def __init__(
        self,
        head: Head,
        settings: dict[str, Any],
        device: torch.device,
    ):
        self.head = head
        self.device = device
        self.confidence = float(settings["confidence"])
        self.iou = float(settings["iou"])
        self.limit = int(settings["max_detections"])
        self.least = head.threshold(self.confidence)
        self._grids: dict[tuple[tuple[int, int], ...], Tensor] = {}

    def find(self, maps: Sequence[Tensor]) -> Tensor:
        """As ``handlers.boxes.nms`` for every picture.

        Args:
            maps: per scale ``[N, anchors, H, W, values]``; memory in the order
                of a convolution's output, so that flattening H and W copies nothing.

        Returns:
            ``[M, 7]`` float32 on the GPU: picture, x1, y1, x2, y2 (pixels of the model's input),
            confidence, class; most confident first within each picture.
        """
        values, grid = self._cells(maps)
        first = self.head.first(values.movedim(2, -1))
        picture, anchor, cell = (first > self.least).nonzero(as_tuple=True)
        found = self._decoded(values[picture, anchor, :, cell], grid[anchor, cell])
        rows = torch.cat((picture[:, None], found), 1)
        return self.suppressed(rows[rows[:, 5] > self.confidence])

    def candidates(self, maps: Sequence[Tensor]) -> Tensor:
        """The boxes whose ``head.first`` is highest, decoded; nothing here waits for the GPU.

        Returns:
            ``[N, K, 7]`` float32 on the GPU, K at most ``CANDIDATES``: ``head.first`` as the maps
            have it (highest first), x1, y1, x2, y2, confidence, class.
        """
        values, grid = self._cells(maps)
        n, anchors, _, cells = values.shape
        first = self.head.first(values.movedim(2, -1)).reshape(n, anchors * cells)
        best, place = first.topk(min(CANDIDATES, anchors * cells), dim=1)
        anchor, cell = place // cells, place % cells
        picture = torch.arange(n, device=values.device)[:, None]
        found = self._decoded(
            values[picture, anchor, :, cell].flatten(0, 1), grid[anchor, cell].flatten(0, 1)
        )
        return torch.cat((best.float()[:, :, None], found.view(n, -1, 6)), 2)

    def chosen(self, candidates: Tensor) -> Tensor | None:
        """What ``find`` gives for these pictures, or None where they may have more boxes.

        Args:
            candidates: as from ``candidates``, in the host's memory.
        """
        passed = candidates[:, :, 0] > self.least
        if candidates.shape[1] == CANDIDATES and bool(passed[:, -1].any()):
            return None
        picture, which = (passed & (candidates[:, :, 5] > self.confidence)).nonzero(as_tuple=True)
        rows = torch.cat((picture[:, None], candidates[picture, which, 1:]), 1)
        if len(rows) > MANY:
            rows = rows.to(self.device)
        return self.suppressed(rows).cpu()

    def passed(self, candidates: Tensor) -> Tensor:
        """Of one picture's candidates ``[K, 7]`` the boxes above the threshold, ``[M, 6]``."""
        above = (candidates[:, 0] > self.least) & (candidates[:, 5] > self.confidence)
        return candidates[above, 1:]

    def suppressed(self, rows: Tensor) -> Tensor:
        """The rows that survive: by picture, then by confidence, at most so many of each."""
        return self._best(rows[self.kept(rows)])

    def kept(self, rows: Tensor) -> Tensor:
        """The rows that survive, most confident first: torchvision's suppression, or all rows of
        a ranked head.

        In 64 bits: the offsets of many pictures and classes would cost 32-bit pixels their
        fractions.
        """
        if self.head.ranked:
            return rows[:, 5].argsort(descending=True, stable=True)
        from torchvision.ops import nms

        wide = rows.double()
        apart = wide[:, [6, 0, 6, 0]] * PLANE
        found: Tensor = nms(wide[:, 1:5] + apart, wide[:, 5], self.iou)
        return found

    def _cells(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """``[N, anchors, values, cells]`` of all scales, and their grid; rows ``[N, M, values]``
        are one row of cells."""
        maps = [m[:, None, None] if m.dim() == 3 else m for m in maps]
        grid = self._grid(tuple((m.shape[2], m.shape[3]) for m in maps))
        return torch.cat([m.permute(0, 1, 4, 2, 3).flatten(3) for m in maps], 3), grid

    def _grid(self, sides: tuple[tuple[int, int], ...]) -> Tensor:
        """``[anchors, cells, k]``, the grid of all scales."""
        if sides not in self._grids:
            scales = [torch.from_numpy(g).flatten(1, 2) for g in self.head.grids(sides)]
            self._grids[sides] = torch.cat(scales, 1).to(self.device)
        return self._grids[sides]

    def _decoded(self, values: Tensor, grid: Tensor) -> Tensor:
        """``[M, values]`` as the maps have them and ``[M, k]`` of the grid -> corners, confidence,
        class: ``[M, 6]`` float32."""
        if self.head.ranked:
            return values[:, :6].float()
        centre, size, rest = self.head.decode(values.float(), grid)
        best, kind = self.head.confidence(rest).max(1, keepdim=True)
        low, high = torch.sub(centre, size, alpha=0.5), torch.add(centre, size, alpha=0.5)
        return torch.cat((low, high, best, kind), 1)

    def _best(self, rows: Tensor) -> Tensor:
        """By picture, then by confidence; at most ``max_detections`` of each picture."""
        rows = rows[rows[:, 0].argsort(stable=True)]
        if len(rows) <= self.limit:
            return rows
        pictures = rows[:, 0].contiguous()
        first = torch.searchsorted(pictures, pictures)
        place = torch.arange(len(rows), device=rows.device) - first
        return rows[place < self.limit]
