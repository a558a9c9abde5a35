"""JPEGs decoded and letterboxed on the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from handlers.images import PADDING, Picture, reduction
from handlers.letterbox import Letterbox, placed

GREY = PADDING / 255


class Source(Protocol):
    """What is decoded: a ``handlers.images.Item``, or one like it whose bytes lie elsewhere."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def picture(self) -> Picture | None: ...
    @property
    def data(self) -> bytes | memoryview: ...


def decode(items: Sequence[Source], device: torch.device) -> list[Tensor]:
    """The items' pictures as ``[3, h, w]`` uint8 RGB on the GPU.

    JPEGs that ``images.peek`` left to the GPU go through nvJPEG in one call (torchvision's
    ``decode_jpeg``); the others were decoded on the CPU and are only copied.

    Raises:
        RuntimeError: nvJPEG does not take one of them.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    found: list[Any] = [None] * len(items)
    ours = [i for i, item in enumerate(items) if item.picture is None]
    if ours:
        data = [torch.frombuffer(_writable(items[i].data), dtype=torch.uint8) for i in ours]
        for i, picture in zip(ours, decode_jpeg(data, ImageReadMode.RGB, device), strict=True):
            found[i] = picture
    for i, item in enumerate(items):
        if item.picture is not None:
            # A copy where they cannot be written to, which PyTorch would warn of.
            pixels = torch.from_numpy(np.require(item.picture.pixels, requirements=["C", "W"]))
            found[i] = pixels.pin_memory().to(device, non_blocking=True).permute(2, 0, 1)
    return found


def _writable(data: bytes | memoryview) -> bytearray | memoryview:
    """The same bytes where PyTorch takes them without a warning: where they could be written to."""
    return data if isinstance(data, memoryview) else bytearray(data)


def letterbox(
    pictures: Sequence[Tensor],
    target: Tensor,
    sizes: Sequence[tuple[int, int]],
    mode: str = "letterbox",
) -> list[Letterbox]:
    """Scales each picture into one row of ``target``, as ``handlers.images.letterbox`` does.

    A picture at least twice as large is first averaged over blocks of 2, 4 or 8 pixels, as libjpeg
    does when the CPU decodes it smaller; the rest is bilinear, rounded to whole values.

    Args:
        pictures: ``[3, h, w]`` uint8.
        target: ``[N, 3, H, W]`` of floats, filled with values in 0..1.
        sizes: each picture's own height and width (it may have been decoded smaller).
        mode: one of ``handlers.images.MODES``.

    Returns:
        Where each picture lies.
    """
    height, width = target.shape[2:]
    places: list[Any] = [None] * len(pictures)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, (picture, size) in enumerate(zip(pictures, sizes, strict=True)):
        groups.setdefault((*picture.shape[1:], *size), []).append(i)
    for (_, _, full_h, full_w), rows in groups.items():
        first, many = rows[0], len(rows)
        together = rows == list(range(first, first + many))
        into = (
            target[first : first + many] if together else target.new_empty(many, 3, height, width)
        )
        place = fit(torch.stack([pictures[i] for i in rows]), into, (full_h, full_w), mode)
        if not together:
            target[rows] = into
        for i in rows:
            places[i] = place
    return places


def fit(x: Tensor, into: Tensor, size: tuple[int, int], mode: str = "letterbox") -> Letterbox:
    """As ``letterbox``, of pictures ``[n, 3, h, w]`` that are all of one size, into all rows."""
    height, width = into.shape[2:]
    place, new_h, new_w = placed(size, (height, width), mode)
    y = _reduced(x, new_h, new_w, into.dtype)
    if y.shape[2:] != (new_h, new_w):
        y = F.interpolate(y, (new_h, new_w), mode="bilinear", align_corners=False).round_()
    inside = into[:, :, place.top : place.top + new_h, place.left : place.left + new_w]
    if inside.shape != into.shape:
        into.fill_(GREY)
    torch.mul(y, 1 / 255, out=inside)
    return place


def _reduced(x: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Pictures ``[n, 3, h, w]`` uint8 averaged over blocks, never below what is needed.

    Returns:
        Whole values, of type ``dtype``.
    """
    h, w = x.shape[2:]
    block = reduction(h, w, height, width)
    if block == 1:
        return x.to(dtype)
    if block == 2 and h % 2 == 0 and w % 2 == 0:
        # Sums of four bytes are exact in 16 bits. On an H200 16 pictures of 1280x720 took 189 us,
        # 253 by avg_pool2d and 470 by mean over a view.
        y = x[:, :, ::2, ::2].to(dtype)
        for down, across in ((0, 1), (1, 0), (1, 1)):
            y += x[:, :, down::2, across::2]
        return y.mul_(0.25).round_()
    # libjpeg rounds up odd sizes; the last block of such a side is a part one.
    pooled = F.avg_pool2d(x.to(dtype), block, ceil_mode=True, count_include_pad=False)
    return pooled.round_()
