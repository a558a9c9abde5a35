"""YOLOv5 detectors of releases 6 and 7 (6x6 stem, SPPF), sizes n, s, m, l and x, and the heads of
YOLOv5 networks of other descriptions (``repack.networks.described``).

The modules carry the names of the published checkpoints' state dicts (``model.0.conv.weight`` to
``model.24.m.2.bias``), so that such a state dict loads with ``strict=True``. Architecture facts
(channels, repeats, kernel sizes, anchors, the box decoding) are those of the published model
configurations; the code is this project's own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from handlers.heads import yolov5 as ends
from repack.networks.blocks import C3, SPPF, Conv

STRIDES = (8, 16, 32)
"""Input pixels per grid cell of the three output scales."""

COCO_ANCHORS = (
    ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
    ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
)
"""Anchor widths and heights in input pixels, per scale: published, fitted to COCO at 640."""


class Size(NamedTuple):
    """How one size scales the repeats (depth) and the channels (width) of the base network."""

    depth: float
    width: float


SIZES = {
    "yolov5n": Size(0.33, 0.25),
    "yolov5s": Size(0.33, 0.50),
    "yolov5m": Size(0.67, 0.75),
    "yolov5l": Size(1.00, 1.00),
    "yolov5x": Size(1.33, 1.25),
}


class Concat(nn.Module):
    """Joins two feature maps along the channels; a module so that it keeps its layer number."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return torch.cat((x, other), 1)


class Detect(nn.Module):
    """Turns feature maps into boxes.

    In training mode ``forward`` returns the raw maps, one ``[N, anchors, H, W, 5 + classes]`` each.
    In evaluation mode it returns ``[N, boxes, 5 + classes]`` float: box centre x and y, width and
    height in input pixels, objectness and class scores in 0..1. Boxes run scale by scale (stride 8
    first), then anchor, row, column, as in the published model.

    Attributes:
        strides: pixels a cell, map by map.
        extras: values of a box behind its class scores, left as they are.
    """

    anchors: Tensor

    def __init__(self, classes: int, channels: tuple[int, ...], per_cell: int = 3, extras: int = 0):
        super().__init__()
        self.strides: tuple[int, ...] = STRIDES
        self.extras = extras
        self.outputs = 5 + classes + extras
        self.per_cell = per_cell
        self.m = nn.ModuleList(nn.Conv2d(c, self.outputs * per_cell, 1) for c in channels)
        published = torch.tensor(COCO_ANCHORS) / torch.tensor(STRIDES).view(3, 1, 1)
        shape = len(channels), per_cell, 2
        self.register_buffer(
            "anchors", published if published.shape == shape else torch.ones(shape)
        )

    def forward(self, maps: list[Tensor]) -> Any:
        raw = self.raw(maps)
        if self.training:
            return raw
        return torch.cat([self.decode(y, i) for i, y in enumerate(raw)], 1)

    def raw(self, maps: list[Tensor]) -> list[Tensor]:
        """Per scale ``[N, anchors, H, W, 5 + classes]``: the convolutions' own values."""
        found = []
        for convolution, x in zip(self.m, maps, strict=True):
            y = convolution(x)
            n, _, height, width = y.shape
            y = y.view(n, self.per_cell, self.outputs, height, width)
            found.append(y.permute(0, 1, 3, 4, 2).contiguous())
        return found

    def decode(self, raw: Tensor, scale: int) -> Tensor:
        """One scale: ``[N, anchors, H, W, 5 + classes]`` to ``[N, boxes, 5 + classes]``."""
        n, _, height, width, _ = raw.shape
        stride = self.strides[scale]
        rows, columns = torch.meshgrid(
            torch.arange(height, device=raw.device, dtype=raw.dtype),
            torch.arange(width, device=raw.device, dtype=raw.dtype),
            indexing="ij",
        )
        cells = torch.stack((columns, rows), 2).view(1, 1, height, width, 2) - 0.5
        anchors = (self.anchors[scale] * stride).to(raw.dtype).view(1, self.per_cell, 1, 1, 2)
        boxes, rest = raw.split((self.outputs - self.extras, self.extras), 4)
        found = ends.YOLOv5.decoded(boxes, cells, stride, anchors)
        return torch.cat((*found, rest), 4).view(n, self.per_cell * height * width, self.outputs)


class Proto(nn.Module):
    """Prototypes of masks, at twice the first map's size."""

    def __init__(self, c_in: int, hidden: int, prototypes: int):
        super().__init__()
        self.cv1 = Conv(c_in, hidden, 3)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.cv2 = Conv(hidden, hidden, 3)
        self.cv3 = Conv(hidden, prototypes)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.cv3(self.cv2(self.upsample(self.cv1(x)))))


class Segment(Detect):
    """Boxes, each with the weights of its mask's prototypes behind its scores, and the prototypes
    ``[N, prototypes, H / 4, W / 4]``."""

    def __init__(
        self,
        classes: int,
        channels: tuple[int, ...],
        per_cell: int,
        prototypes: int,
        hidden: int,
    ):
        super().__init__(classes, channels, per_cell, prototypes)
        self.proto = Proto(channels[0], hidden, prototypes)

    def forward(self, maps: list[Tensor]) -> Any:
        return super().forward(maps), self.proto(maps[0])


class YOLOv5(nn.Module):
    """One YOLOv5 detector.

    Input: ``[N, 3, H, W]`` float, RGB, 0..1, H and W multiples of 32.
    Output: as ``Detect``.

    Args:
        size: a key of ``SIZES``.
        classes: how many classes, at least 1.
        per_cell: anchors per grid cell and scale, 3 in every published model.

    Raises:
        KeyError: an unknown size.
    """

    def __init__(self, size: str, classes: int, per_cell: int = 3):
        super().__init__()
        scale = SIZES[size]

        def ch(channels: int) -> int:
            return math.ceil(channels * scale.width / 8) * 8

        def rep(repeats: int) -> int:
            return max(round(repeats * scale.depth), 1)

        self.size = size
        self.classes = classes
        self.model = nn.ModuleList(
            [
                Conv(3, ch(64), 6, 2, 2),
                Conv(ch(64), ch(128), 3, 2),
                C3(ch(128), ch(128), rep(3)),
                Conv(ch(128), ch(256), 3, 2),
                C3(ch(256), ch(256), rep(6)),
                Conv(ch(256), ch(512), 3, 2),
                C3(ch(512), ch(512), rep(9)),
                Conv(ch(512), ch(1024), 3, 2),
                C3(ch(1024), ch(1024), rep(3)),
                SPPF(ch(1024), ch(1024)),
                Conv(ch(1024), ch(512)),
                nn.Upsample(scale_factor=2, mode="nearest"),
                Concat(),
                C3(2 * ch(512), ch(512), rep(3), shortcut=False),
                Conv(ch(512), ch(256)),
                nn.Upsample(scale_factor=2, mode="nearest"),
                Concat(),
                C3(2 * ch(256), ch(256), rep(3), shortcut=False),
                Conv(ch(256), ch(256), 3, 2),
                Concat(),
                C3(2 * ch(256), ch(512), rep(3), shortcut=False),
                Conv(ch(512), ch(512), 3, 2),
                Concat(),
                C3(2 * ch(512), ch(1024), rep(3), shortcut=False),
                Detect(classes, (ch(256), ch(512), ch(1024)), per_cell),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:
        return cast("list[Tensor] | Tensor", self.model[24](self.maps(x)))

    def raw(self, x: Tensor) -> list[Tensor]:
        """What the boxes are decoded from, as ``Detect.raw``."""
        return cast(Detect, self.model[24]).raw(self.maps(x))

    @property
    def head(self) -> ends.YOLOv5:
        """What the archive's handlers decode the raw maps by."""
        detect = cast(Detect, self.model[24])
        scales = (detect.anchors * torch.tensor(STRIDES).view(3, 1, 1)).tolist()
        anchors = tuple(tuple((w, h) for w, h in scale) for scale in scales)
        return ends.YOLOv5(classes=self.classes, anchors=anchors, strides=STRIDES)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The feature maps of the three scales, ``[N, C, H / stride, W / stride]`` each."""
        layer = self.model
        for i in range(5):
            x = layer[i](x)
        stride8 = x
        x = layer[6](layer[5](x))
        stride16 = x
        top = layer[10](layer[9](layer[8](layer[7](x))))
        x = layer[13](layer[12](layer[11](top), stride16))
        middle = layer[14](x)
        small = layer[17](layer[16](layer[15](middle), stride8))
        medium = layer[20](layer[19](layer[18](small), middle))
        large = layer[23](layer[22](layer[21](medium), top))
        return [small, medium, large]
