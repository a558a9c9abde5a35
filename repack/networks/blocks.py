"""Blocks of YOLOv8, YOLO11 and YOLOv5u, under the names that their published checkpoints have.

Facts (channels, kernels, which halves are added or joined) are those of the published networks and
of their state dicts; the code is this project's own.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn


class Conv(nn.Module):
    """Convolution, batch norm and SiLU, or nothing in its place where ``act`` is not set."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        stride: int = 1,
        pad: int | None = None,
        groups: int = 1,
        act: bool = True,
    ):
        super().__init__()
        pad = kernel // 2 if pad is None else pad
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, pad, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.act(self.bn(self.conv(x))))


def depthwise(c_in: int, c_out: int, kernel: int) -> Conv:
    return Conv(c_in, c_out, kernel, groups=math.gcd(c_in, c_out))


class Bottleneck(nn.Module):
    """Two convolutions, added to the input where ``shortcut`` is set.

    Args:
        kernels: of the two.
        share: of the channels, how many lie between the two.
    """

    def __init__(self, channels: int, shortcut: bool, kernels: tuple[int, int], share: float):
        super().__init__()
        hidden = int(channels * share)
        self.cv1 = Conv(channels, hidden, kernels[0])
        self.cv2 = Conv(hidden, channels, kernels[1])
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = cast(Tensor, self.cv2(self.cv1(x)))
        return x + y if self.shortcut else y


class C3(nn.Module):
    """Half of the channels through bottlenecks, half past them."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        repeats: int = 1,
        shortcut: bool = True,
        kernels: tuple[int, int] = (1, 3),
    ):
        super().__init__()
        hidden = c_out // 2
        self.cv1 = Conv(c_in, hidden)
        self.cv2 = Conv(c_in, hidden)
        self.cv3 = Conv(2 * hidden, c_out)
        inside = (Bottleneck(hidden, shortcut, kernels, 1.0) for _ in range(repeats))
        self.m = nn.Sequential(*inside)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1)))


class C2f(nn.Module):
    """Half of the channels through bottlenecks one after the other, the answer of each joined."""

    def __init__(
        self, c_in: int, c_out: int, repeats: int = 1, shortcut: bool = False, share: float = 0.5
    ):
        super().__init__()
        self.hidden = int(c_out * share)
        self.cv1 = Conv(c_in, 2 * self.hidden)
        self.cv2 = Conv((2 + repeats) * self.hidden, c_out)
        self.m = nn.ModuleList(self.inside(shortcut) for _ in range(repeats))

    def inside(self, shortcut: bool) -> nn.Module:
        return Bottleneck(self.hidden, shortcut, (3, 3), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return cast(Tensor, self.cv2(torch.cat(parts, 1)))


class C3k2(C2f):
    """C2f of small bottlenecks, or, where ``nested`` is set, of C3 with kernels of 3."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        repeats: int = 1,
        nested: bool = False,
        share: float = 0.5,
        shortcut: bool = True,
    ):
        self.nested = nested
        super().__init__(c_in, c_out, repeats, shortcut, share)

    def inside(self, shortcut: bool) -> nn.Module:
        if self.nested:
            return C3(self.hidden, self.hidden, 2, shortcut, (3, 3))
        return Bottleneck(self.hidden, shortcut, (3, 3), 0.5)


class SPPF(nn.Module):
    """Spatial pyramid pooling: max pooling once, twice and three times, joined."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 5):
        super().__init__()
        hidden = c_in // 2
        self.cv1 = Conv(c_in, hidden)
        self.cv2 = Conv(hidden * 4, c_out)
        self.m = nn.MaxPool2d(kernel, 1, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.cv1(x)]
        for _ in range(3):
            found.append(self.m(found[-1]))
        return cast(Tensor, self.cv2(torch.cat(found, 1)))


class Attention(nn.Module):
    """Multi-head self-attention over the cells of a map, with a convolution of the values for
    their places; keys are half as long as values."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.value = channels // heads
        self.key = self.value // 2
        self.qkv = Conv(channels, channels + 2 * self.key * heads, act=False)
        self.proj = Conv(channels, channels, act=False)
        self.pe = Conv(channels, channels, 3, groups=channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        parts = self.qkv(x).view(n, self.heads, 2 * self.key + self.value, height * width)
        q, k, v = parts.split((self.key, self.key, self.value), 2)
        weights = ((q.transpose(2, 3) @ k) * self.key**-0.5).softmax(3)
        seen = (v @ weights.transpose(2, 3)).view(n, channels, height, width)
        placed = self.pe(v.reshape(n, channels, height, width))
        return cast(Tensor, self.proj(seen + placed))


class PSABlock(nn.Module):
    """Attention and two convolutions, each added to what it takes."""

    def __init__(self, channels: int):
        super().__init__()
        self.attn = Attention(channels, max(1, channels // 64))
        self.ffn = nn.Sequential(
            Conv(channels, 2 * channels), Conv(2 * channels, channels, act=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return cast(Tensor, x + self.ffn(x))


class C2PSA(nn.Module):
    """Half of the channels through attention, half past it."""

    def __init__(self, c_in: int, c_out: int, repeats: int = 1):
        super().__init__()
        hidden = c_in // 2
        self.cv1 = Conv(c_in, 2 * hidden)
        self.cv2 = Conv(2 * hidden, c_out)
        self.m = nn.Sequential(*(PSABlock(hidden) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        past, through = self.cv1(x).chunk(2, 1)
        return cast(Tensor, self.cv2(torch.cat((past, self.m(through)), 1)))


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
            nn.Sequential(Conv(c, box, 3), Conv(box, box, 3), nn.Conv2d(box, 4 * self.bins, 1))
            for c in channels
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(*_scores(c, score, wide), nn.Conv2d(score, classes, 1)) for c in channels
        )
        self.dfl = nn.ModuleDict({"conv": nn.Conv2d(self.bins, 1, 1, bias=False)})
        self.strides: tuple[int, ...] = ()

    def forward(self, maps: list[Tensor]) -> Tensor:
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


def _scores(c_in: int, c_out: int, wide: bool) -> tuple[nn.Module, nn.Module]:
    if wide:
        return Conv(c_in, c_out, 3), Conv(c_out, c_out, 3)
    return (
        nn.Sequential(depthwise(c_in, c_in, 3), Conv(c_in, c_out)),
        nn.Sequential(depthwise(c_out, c_out, 3), Conv(c_out, c_out)),
    )
