"""What YOLOv5-face has beside YOLOv5's blocks, under the names that its checkpoints have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repack.networks.blocks import Conv
from repack.networks.yolov5 import Detect

POINTS = 5
"""Of a face: eyes, nose and corners of the mouth."""


class StemBlock(nn.Module):
    """A quarter of the picture's size, by a convolution and by pooling, joined."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 2):
        super().__init__()
        self.stem_1 = Conv(c_in, c_out, kernel, stride)
        self.stem_2a = Conv(c_out, c_out // 2)
        self.stem_2b = Conv(c_out // 2, c_out, 3, 2)
        self.stem_2p = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.stem_3 = Conv(2 * c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_1(x)
        both = torch.cat((self.stem_2b(self.stem_2a(x)), self.stem_2p(x)), 1)
        found: Tensor = self.stem_3(both)
        return found


class ShuffleV2Block(nn.Module):
    """ShuffleNet V2's unit (Ma et al. 2018): half of the channels past it, or both through where it
    has a stride; then channels of both in turn."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        half = c_out // 2
        self.halves = stride == 1
        self.branch1 = nn.Sequential()
        if not self.halves:
            self.branch1 = nn.Sequential(*_depthwise(c_in, stride), *_pointwise(c_in, half))
        self.branch2 = nn.Sequential(
            *_pointwise(half if self.halves else c_in, half),
            *_depthwise(half, stride),
            *_pointwise(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.halves:
            past, through = x.chunk(2, 1)
        else:
            past, through = self.branch1(x), x
        return torch.stack((past, self.branch2(through)), 2).flatten(1, 2)


def _pointwise(c_in: int, c_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out, eps=1e-3), nn.SiLU()


def _depthwise(channels: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return convolution, nn.BatchNorm2d(channels, eps=1e-3)


class Landmarks(Detect):
    """YOLOv5's boxes, each with five points: ``[N, boxes, 5 + 10 + classes]``, x and y of each in
    pixels between objectness and class scores."""

    def __init__(self, classes: int, channels: tuple[int, ...], per_cell: int):
        super().__init__(classes, channels, per_cell, 2 * POINTS)

    def decode(self, raw: Tensor, scale: int) -> Tensor:
        box, points, scores = raw.split((5, 2 * POINTS, self.outputs - 5 - 2 * POINTS), 4)
        boxes = super().decode(torch.cat((box, scores, points), 4), scale)
        box, scores, points = boxes.split((5, scores.shape[4], 2 * POINTS), 2)
        _, per_cell, height, width, _ = raw.shape
        rows, columns = torch.meshgrid(
            torch.arange(height, device=raw.device, dtype=raw.dtype),
            torch.arange(width, device=raw.device, dtype=raw.dtype),
            indexing="ij",
        )
        stride = self.strides[scale]
        cell = torch.stack((columns, rows), 2).expand(per_cell, -1, -1, -1) * stride
        anchor = (self.anchors[scale] * stride).to(raw.dtype).view(per_cell, 1, 1, 2)
        cell, anchor = (x.expand_as(cell).reshape(-1, 2).repeat(1, POINTS) for x in (cell, anchor))
        return torch.cat((box, points * anchor + cell, scores), 2)
