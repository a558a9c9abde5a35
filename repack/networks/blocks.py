"""Blocks of YOLOv5, YOLOv8 and YOLO11, under the names that their published checkpoints have.

Facts (channels, kernels, which halves are added or joined) are those of the published networks and
of their state dicts; the code is this project's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


class SPP(nn.Module):
    """Max pooling by several kernels, joined with what they take."""

    def __init__(self, c_in: int, c_out: int, kernels: Sequence[int]):
        super().__init__()
        hidden = c_in // 2
        self.cv1 = Conv(c_in, hidden)
        self.cv2 = Conv(hidden * (len(kernels) + 1), c_out)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in kernels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return cast(Tensor, self.cv2(torch.cat([x, *(m(x) for m in self.m)], 1)))


class Focus(nn.Module):
    """Each square of four pixels as channels, then a convolution."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1):
        super().__init__()
        self.conv = Conv(4 * c_in, c_out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x[..., ::2], x[..., 1::2]
        parts = (left[..., ::2, :], left[..., 1::2, :], right[..., ::2, :], right[..., 1::2, :])
        return cast(Tensor, self.conv(torch.cat(parts, 1)))


class BottleneckCSP(nn.Module):
    """Half of the channels through bottlenecks, half past them, a norm over both."""

    def __init__(self, c_in: int, c_out: int, repeats: int = 1, shortcut: bool = True):
        super().__init__()
        hidden = c_out // 2
        self.cv1 = Conv(c_in, hidden)
        self.cv2 = nn.Conv2d(c_in, hidden, 1, bias=False)
        self.cv3 = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.cv4 = Conv(2 * hidden, c_out)
        self.bn = nn.BatchNorm2d(2 * hidden, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)
        inside = (Bottleneck(hidden, shortcut, (1, 3), 1.0) for _ in range(repeats))
        self.m = nn.Sequential(*inside)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1)
        return cast(Tensor, self.cv4(self.act(self.bn(both))))


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
