"""The sliding window of ``handlers.windows`` on a device: weights and sums stay there.

The same windows, in the same order, with the same weights; only the volume's planes leave, one
after the other, still on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handlers import windows as cpu
from handlers.windows import Floats, Sides, Windows

Predict = Callable[[Tensor], Tensor]
"""``[n, channels, *patch]`` to logits ``[n, k, *patch]``, valid until the next call."""

BLOCK = 32
"""Planes that are copied to or from a device at once."""

AHEAD = 2
"""Groups of windows that are queued before the host waits for the first of them."""


def hold(data: Floats, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A prepared volume ``[channels, a, b, c]``, of any strides, on a device."""
    held = torch.empty(data.shape, dtype=dtype, device=device)
    for i in range(0, data.shape[1], BLOCK):
        part = np.ascontiguousarray(data[:, i : i + BLOCK])
        held[:, i : i + BLOCK].copy_(torch.from_numpy(part))
    return held


def planes(
    data: Tensor | Floats,
    windows: Windows,
    predict: Predict,
    place: cpu.Slab,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Tensor]:
    """The volume's logits, plane by plane along the slab's axis.

    Args:
        data: ``[channels, a, b, c]`` from ``hold``; or left in the host's memory, where the
            device's is too small: then every window is copied for itself.
        place: from ``handlers.windows.slab``.
        dtype: of the patches that ``predict`` is given.
        progress: called with the number of windows that the device has done.

    Yields:
        ``[k, *]`` float32, the mean of the windows' logits by weight, over the other two axes.
    """
    shape = data.shape[1:]
    axis = place.axis
    margin = cpu.margins(shape, windows.patch)
    others = [i for i in range(3) if i != axis]
    across = (slice(None), *(slice(margin[i], margin[i] + shape[i]) for i in others))
    inside = range(margin[axis], margin[axis] + shape[axis])
    slab = Slab(windows, place, device)
    pace = Pace(device, progress)
    # What lies beside a small volume stays 0: every window has it at the same place.
    patches = torch.zeros(
        (windows.batch, data.shape[0], *windows.patch), dtype=dtype, device=device
    )
    base = done = 0

    def finish() -> Iterator[Tensor]:
        plane = slab.take(base)
        if base in inside:
            yield plane[across]

    for group in cpu.groups(cpu.in_order(cpu.begins_of(shape, windows), axis), windows.batch):
        for patch, begin in zip(patches, group, strict=False):
            source, target = cpu.under(shape, begin, margin, windows.patch)
            patch[target].copy_(_tensor(data[source]))
        logits = predicted(patches[: len(group)], windows, predict)
        for begin, found in zip(group, logits, strict=True):
            while base < begin[axis]:
                yield from finish()
                base += 1
            slab.add(begin, found)
        done += len(group)
        pace(done)
    pace.wait()
    for _ in range(windows.patch[axis]):
        yield from finish()
        base += 1


def _tensor(part: Any) -> Tensor:
    return part if isinstance(part, Tensor) else torch.from_numpy(np.ascontiguousarray(part))


def predicted(patches: Tensor, windows: Windows, predict: Predict) -> Tensor:
    """Logits ``[n, k, *patch]``, the mean over the mirrored ones where those are asked for."""
    logits = predict(patches)
    if not windows.mirror:
        return logits
    total = logits.to(torch.float32, copy=True)
    ways = cpu.flips(windows)
    for flip in ways:
        total += predict(patches.flip(flip)).flip(flip)
    return total / (len(ways) + 1)


class Slab:
    """Sums of weighted logits and of weights, as thick as a patch along the axis that it moves.

    Plane ``i`` of the volume is plane ``i`` modulo the thickness; the axes lie as in the volume.
    """

    def __init__(self, windows: Windows, place: cpu.Slab, device: torch.device):
        thickness, k, b, c = place.shape
        sides = [b, c]
        sides.insert(place.axis, thickness)
        self.axis, self.thickness = place.axis, thickness
        self.sums = torch.zeros((k, *sides), device=device)
        self.total = torch.zeros((1, *sides), device=device)
        made = cpu.Importance(windows)
        whole = np.stack([made.plane(d) for d in range(len(made))])
        self.weights = torch.from_numpy(whole)[None].to(device)

    def add(self, begin: Sides, logits: Tensor) -> None:
        """Adds one window's logits ``[k, *patch]``."""
        first = begin[self.axis] % self.thickness
        behind = self.thickness - first
        logits = logits.float()
        for low, length, at in ((0, behind, first), (behind, first, 0)):
            if length:
                weights = self.weights.narrow(self.axis + 1, low, length)
                part = logits.narrow(self.axis + 1, low, length)
                self._here(self.sums, begin, at, length).addcmul_(part, weights)
                self._here(self.total, begin, at, length).add_(weights)

    def take(self, i: int) -> Tensor:
        """``[k, b, c]``: the mean logits of plane ``i``, whose place is then free."""
        plane, total = (
            whole.select(self.axis + 1, i % self.thickness) for whole in (self.sums, self.total)
        )
        found = plane / total
        plane.zero_()
        total.zero_()
        return found

    def _here(self, whole: Tensor, begin: Sides, at: int, length: int) -> Tensor:
        """The part of the slab under a window, ``length`` planes of it from ``at`` on."""
        spans = [slice(b, b + n) for b, n in zip(begin, self.weights.shape[1:], strict=True)]
        spans[self.axis] = slice(at, at + length)
        under = (slice(None), *spans)
        return whole[under]


class Pace:
    """Keeps the host only a little ahead of the device, so that progress is what was done."""

    def __init__(self, device: torch.device, progress: Callable[[int], None]):
        self._queues = device.type == "cuda"
        self._progress = progress
        self._waiting: deque[tuple[Any, int]] = deque()

    def __call__(self, done: int) -> None:
        """Marks that ``done`` windows are queued."""
        if not self._queues:
            self._progress(done)
            return
        event = torch.cuda.Event()
        event.record()
        self._waiting.append((event, done))
        self.wait(AHEAD)

    def wait(self, left: int = 0) -> None:
        """Waits until at most ``left`` groups are queued."""
        while len(self._waiting) > left:
            event, done = self._waiting.popleft()
            event.synchronize()
            self._progress(done)
