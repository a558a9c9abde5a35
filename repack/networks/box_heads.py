"""Heads of YOLOv8 and YOLO11, under the names that their published checkpoints have; as
``repack.networks.blocks``."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from repack.networks import blocks


class Detect(nn.Module):
    """Boxes of every cell of three maps or more.

    Input: maps ``[N, C, H, W]`` each. Output: ``[N, 4 + classes, cells]``: centre x and y, width
    and height in pixels, and the classes' scores in 0..1; map by map, then row by row.

    A side of a box is the mean of ``bins`` distances from the cell's centre, in strides, weighted
    by a softmax (Generalized Focal Loss, Li et al. 2020).

    Args:
        wide: whether class scores come from plain convolutions (YOLOv8), not depthwise ones.
    """

    bins = 16

    def __init__(self, classes: int, channels: tuple[int, ...], wide: bool):
        super().__init__()
        self.classes = classes
        box = max(16, channels[0] // 4, self.bins * 4)
        score = max(channels[0], min(classes, 100))
        self.cv2 = nn.ModuleList(
            nn.Sequential(
                blocks.Conv(c, box, 3), blocks.Conv(box, box, 3), nn.Conv2d(box, 4 * self.bins, 1)
            )
            for c in channels
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(*_scores(c, score, wide), nn.Conv2d(score, classes, 1)) for c in channels
        )
        self.dfl = nn.ModuleDict({"conv": nn.Conv2d(self.bins, 1, 1, bias=False)})
        self.strides: tuple[int, ...] = ()

    def forward(self, maps: list[Tensor]) -> Any:
        return self.rows(maps)

    def rows(self, maps: list[Tensor]) -> Tensor:
        """``[N, 4 + classes, cells]``."""
        boxes = torch.cat([b(m).flatten(2) for b, m in zip(self.cv2, maps, strict=True)], 2)
        scores = torch.cat([s(m).flatten(2) for s, m in zip(self.cv3, maps, strict=True)], 2)
        return torch.cat((self.decode(boxes, maps), scores.sigmoid()), 1)

    def decode(self, raw: Tensor, maps: list[Tensor]) -> Tensor:
        """``[N, 4 * bins, cells]`` to centre, width and height in pixels, ``[N, 4, cells]``."""
        n, _, cells = raw.shape
        weights = raw.view(n, 4, self.bins, cells).transpose(1, 2).softmax(1)
        sides = self.dfl["conv"](weights).view(n, 4, cells)
        places, strides = self.cells(maps)
        low, high = places - sides[:, :2], places + sides[:, 2:]
        return torch.cat(((low + high) / 2, high - low), 1) * strides

    def cells(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Centres of all cells ``[2, cells]``, in strides, and their strides ``[1, cells]``."""
        places, strides = [], []
        for stride, m in zip(self.strides, maps, strict=True):
            height, width = m.shape[2:]
            y, x = torch.meshgrid(
                torch.arange(height, device=m.device, dtype=m.dtype) + 0.5,
                torch.arange(width, device=m.device, dtype=m.dtype) + 0.5,
                indexing="ij",
            )
            places.append(torch.stack((x, y)).flatten(1))
            strides.append(torch.full((1, height * width), stride, device=m.device, dtype=m.dtype))
        return torch.cat(places, 1), torch.cat(strides, 1)


class More(Detect):
    """A detector's head with more values of every cell.

    Args:
        values: how many.
    """

    def __init__(self, classes: int, channels: tuple[int, ...], wide: bool, values: int):
        super().__init__(classes, channels, wide)
        hidden = max(channels[0] // 4, values)
        self.cv4 = nn.ModuleList(
            nn.Sequential(
                blocks.Conv(c, hidden, 3),
                blocks.Conv(hidden, hidden, 3),
                nn.Conv2d(hidden, values, 1),
            )
            for c in channels
        )

    def more(self, maps: list[Tensor]) -> Tensor:
        """``[N, values, cells]``."""
        return torch.cat([m4(m).flatten(2) for m4, m in zip(self.cv4, maps, strict=True)], 2)


class Proto(nn.Module):
    """Prototypes of masks, at twice the first map's size."""

    def __init__(self, c_in: int, hidden: int, prototypes: int):
        super().__init__()
        self.cv1 = blocks.Conv(c_in, hidden, 3)
        self.upsample = nn.ConvTranspose2d(hidden, hidden, 2, 2)
        self.cv2 = blocks.Conv(hidden, hidden, 3)
        self.cv3 = blocks.Conv(hidden, prototypes)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.cv3(self.cv2(self.upsample(self.cv1(x)))))


class Segment(More):
    """Boxes, each with the weights of its mask's prototypes behind its scores, and the prototypes
    ``[N, prototypes, H / 4, W / 4]``."""

    def __init__(
        self, classes: int, channels: tuple[int, ...], wide: bool, prototypes: int, hidden: int
    ):
        super().__init__(classes, channels, wide, prototypes)
        self.proto = Proto(channels[0], hidden, prototypes)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        return torch.cat((self.rows(maps), self.more(maps)), 1), self.proto(maps[0])


class Pose(More):
    """Boxes, each with its points behind its scores: x and y in pixels, and where there are three
    values a confidence 0..1.

    Args:
        points: how many, and of how many values each, 2 or 3.
    """

    def __init__(
        self, classes: int, channels: tuple[int, ...], wide: bool, points: tuple[int, int]
    ):
        super().__init__(classes, channels, wide, points[0] * points[1])
        self.points = points

    def forward(self, maps: list[Tensor]) -> Tensor:
        raw = self.more(maps).unflatten(1, self.points)
        places, strides = self.cells(maps)
        where = (raw[:, :, :2] * 2 + (places - 0.5)) * strides
        whole = torch.cat((where, raw[:, :, 2:].sigmoid()), 2)
        return torch.cat((self.rows(maps), whole.flatten(1, 2)), 1)


class OBB(More):
    """Boxes at an angle, which stands behind the scores: radians from -pi / 4 to 3 pi / 4, from the
    x axis to the box's width, clockwise on the screen. Sides are as far as the box's own axes say.
    """

    def __init__(self, classes: int, channels: tuple[int, ...], wide: bool):
        super().__init__(classes, channels, wide, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        angle = (self.more(maps).sigmoid() - 0.25) * math.pi
        rows = self.rows(maps)
        places, strides = self.cells(maps)
        own = places * strides
        x, y = (rows[:, :2] - own).split(1, 1)
        cos, sin = angle.cos(), angle.sin()
        centre = torch.cat((x * cos - y * sin, x * sin + y * cos), 1) + own
        return torch.cat((centre, rows[:, 2:], angle), 1)


def _scores(c_in: int, c_out: int, wide: bool) -> tuple[nn.Module, nn.Module]:
    if wide:
        return blocks.Conv(c_in, c_out, 3), blocks.Conv(c_out, c_out, 3)
    return (
        nn.Sequential(blocks.depthwise(c_in, c_in, 3), blocks.Conv(c_in, c_out)),
        nn.Sequential(blocks.depthwise(c_out, c_out, 3), blocks.Conv(c_out, c_out)),
    )
