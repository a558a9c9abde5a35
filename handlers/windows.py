"""A sliding window over a volume: overlapping patches, weighted towards their centres.

The step rule and the weights follow nnU-Net v2
(``nnunetv2/inference/sliding_window_prediction.py``) or MONAI (``dense_patch_slices`` and
``compute_importance_map`` in ``monai/data/utils.py``). The sums are kept for one slab only, as
thick as a patch: the planes that no further window touches are handed on at once, so the volume's
logits never exist as a whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Sides = tuple[int, int, int]

Predict = Callable[[Floats], Floats]
"""``[n, channels, *patch]`` float32 to logits ``[n, k, *patch]``."""

LOWEST_MONAI_WEIGHT = 1e-3


@dataclass(frozen=True)
class Windows:
    """How a volume is cut.

    Attributes:
        patch: voxels along the volume's three axes; a 2-D network has depth 1.
        overlap: the share of a patch's side that neighbours share, 0 to below 1.
        gaussian: whether a patch's middle counts more than its rim.
        sigma: of the Gaussian, as a share of the patch's side.
        mirror: axes of the volume along which a patch is also predicted mirrored.
        batch: windows predicted together.
        rule: "nnunet" or "monai".
    """

    patch: Sides
    overlap: float = 0.5
    gaussian: bool = True
    sigma: float = 0.125
    mirror: tuple[int, ...] = ()
    batch: int = 1
    rule: str = "nnunet"


class Pool(NamedTuple):
    """Threads, and how many there are."""

    executor: Executor
    threads: int


class Slab(NamedTuple):
    """Where the sums are kept.

    Attributes:
        axis: the volume's axis along which the slab moves.
        shape: ``(thickness, k, b, c)``: the sums of the weighted logits. Those of the weights are
            the same for every volume of a shape, and computed for one plane at a time.
    """

    axis: int
    shape: tuple[int, int, int, int]

    @property
    def bytes(self) -> int:
        return 4 * math.prod(self.shape)


def padded(shape: Sequence[int], patch: Sequence[int]) -> Sides:
    """The volume's shape, at least that of a patch."""
    a, b, c = (max(n, p) for n, p in zip(shape, patch, strict=True))
    return a, b, c


def starts(size: int, patch: int, overlap: float, rule: str = "nnunet") -> list[int]:
    """Where windows begin along one axis of at least a patch's length.

    "nnunet": as few steps as keep the overlap, evenly spread. "monai": steps of that length, the
    last window pushed back inside.
    """
    step = patch * (1 - overlap)
    if rule == "monai":
        step = max(1, int(step))
        count = math.ceil((size - patch) / step) + 1
        return [min(i * step, size - patch) for i in range(count)]
    count = math.ceil((size - patch) / step) + 1
    length = (size - patch) / max(1, count - 1)
    return [int(np.round(length * i)) for i in range(count)]


class Importance:
    """The weight of each voxel of a patch, at most 1, above 0; made plane by plane.

    Args:
        windows: the patch and its Gaussian.
        axis: the patch's axis that the planes are counted along.
    """

    def __init__(self, windows: Windows, axis: int = 0):
        curves = [_curve(windows, i) for i in range(3)]
        self._along = curves.pop(axis)
        self._plane = np.outer(*curves)
        monai = windows.rule == "monai" and windows.gaussian
        self._floor = np.float32(LOWEST_MONAI_WEIGHT if monai else np.finfo(np.float32).tiny)

    def __len__(self) -> int:
        return len(self._along)

    def plane(self, d: int) -> Floats:
        """``[b, c]``: the weights of the patch's plane ``d``."""
        weights: Floats = self._plane * self._along[d]
        np.maximum(weights, self._floor, out=weights)
        return weights


def _curve(windows: Windows, axis: int) -> Floats:
    """A patch's weights along one axis: a Gaussian around its middle, 1 there."""
    side = windows.patch[axis]
    if not windows.gaussian:
        return np.ones(side, np.float32)
    middle = (side - 1) / 2 if windows.rule == "monai" else side // 2
    away = (np.arange(side) - middle) / (windows.sigma * side)
    found = np.exp(-0.5 * away**2)
    return np.asarray(found / found.max(), np.float32)


def slab(shape: Sequence[int], windows: Windows, outputs: int) -> Slab:
    """The slab that takes the least memory, over the axes along which it may move."""
    sides = padded(shape, windows.patch)

    def along(axis: int) -> Slab:
        b, c = (sides[other] for other in range(3) if other != axis)
        return Slab(axis, (windows.patch[axis], outputs, b, c))

    return min((along(axis) for axis in range(3)), key=lambda s: s.bytes)


def count(shape: Sequence[int], windows: Windows) -> int:
    """How many windows cover a volume."""
    return math.prod(len(s) for s in begins_of(shape, windows))


def planes(
    data: Floats,
    windows: Windows,
    predict: Predict,
    place: Slab,
    progress: Callable[[int], None] = lambda done: None,
    pool: Pool | None = None,
) -> Iterator[Floats]:
    """The volume's logits, plane by plane along the slab's axis.

    Args:
        data: ``[channels, a, b, c]``; where it is smaller than a patch, zeros surround it.
        place: from ``slab``.
        progress: called with the number of windows done, after each batch.
        pool: threads that add up a window's planes side by side.

    Yields:
        ``[k, *]``, the mean of the windows' logits by weight, over the other two axes.
    """
    weights = Importance(windows, place.axis)
    sums = np.zeros(place.shape, np.float32)
    begins = begins_of(data.shape[1:], windows)
    margin = margins(data.shape[1:], windows.patch)
    inside = range(margin[place.axis], margin[place.axis] + data.shape[1 + place.axis])
    others = [axis for axis in range(3) if axis != place.axis]
    sides = [slice(margin[axis], margin[axis] + data.shape[1 + axis]) for axis in others]
    across = (slice(None), *sides)
    base = done = 0

    def finish() -> Iterator[Floats]:
        plane = sums[base % len(sums)]
        if base in inside:
            yield plane[across] / _total(base, begins, weights, place)[across[1:]]
        plane[...] = 0

    for group in groups(in_order(begins, place.axis), windows.batch):
        for begin, logits in zip(group, _predicted(data, group, windows, predict), strict=True):
            while base < begin[place.axis]:
                yield from finish()
                base += 1
            _add(sums, begin, np.moveaxis(logits, place.axis + 1, 1), weights, place.axis, pool)
        del logits  # or it would be held while the next group is predicted
        done += len(group)
        progress(done)
    for _ in range(len(sums)):
        yield from finish()
        base += 1


def begins_of(shape: Sequence[int], windows: Windows) -> list[list[int]]:
    """Where windows begin, along each axis of the padded volume."""
    sides = padded(shape, windows.patch)
    pairs = zip(sides, windows.patch, strict=True)
    return [starts(n, p, windows.overlap, windows.rule) for n, p in pairs]


def in_order(begins: list[list[int]], axis: int) -> list[Sides]:
    """Where the windows begin, those that reach furthest back along ``axis`` first."""
    every = ((a, b, c) for a, b, c in itertools.product(*begins))
    return sorted(every, key=lambda begin: begin[axis])


def margins(shape: Sequence[int], patch: Sequence[int]) -> Sides:
    """Zeros before the volume on each axis; where their number is odd, one more lies behind."""
    a, b, c = (max(0, p - n) // 2 for n, p in zip(shape, patch, strict=True))
    return a, b, c


def groups(begins: list[Sides], size: int) -> Iterator[list[Sides]]:
    """Windows that are predicted together."""
    for i in range(0, len(begins), size):
        yield begins[i : i + size]


def _predicted(data: Floats, group: list[Sides], windows: Windows, predict: Predict) -> Floats:
    """Logits ``[n, k, *patch]``, of mirrored ways the mean; beside the volume lie zeros."""
    patches = np.zeros((len(group), data.shape[0], *windows.patch), np.float32)
    margin = margins(data.shape[1:], windows.patch)
    for patch, begin in zip(patches, group, strict=True):
        source, target = under(data.shape[1:], begin, margin, windows.patch)
        patch[target] = data[source]
    logits = predict(patches)
    if not windows.mirror:
        return logits
    total = np.array(logits, np.float32)
    ways = flips(windows)
    for flip in ways:
        total += np.flip(predict(np.ascontiguousarray(np.flip(patches, flip))), flip)
    total /= len(ways) + 1
    return total


def flips(windows: Windows) -> list[tuple[int, ...]]:
    """The axes of ``[n, channels, *patch]`` to mirror, for each way but the plain one."""
    axes = [axis + 2 for axis in windows.mirror]
    return [f for n in range(1, len(axes) + 1) for f in itertools.combinations(axes, n)]


def under(
    shape: Sequence[int], begin: Sides, margin: Sides, patch: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a window lies in ``[channels, *volume]``, and that part in ``[channels, *patch]``."""
    source, target = [slice(None)], [slice(None)]
    for start, before, size, side in zip(begin, margin, shape, patch, strict=True):
        low = start - before
        first, last = max(0, low), min(size, low + side)
        source.append(slice(first, last))
        target.append(slice(first - low, last - low))
    return tuple(source), tuple(target)


def _add(
    sums: Floats,
    begin: Sides,
    logits: Floats,
    weights: Importance,
    axis: int,
    pool: Pool | None = None,
) -> None:
    """Adds one window's logits ``[k, d, *]``, the slab's axis first.

    Plane ``i`` of the volume is plane ``i`` modulo its thickness of the slab.
    """
    b, c = (begin[other] for other in range(3) if other != axis)
    height, width = logits.shape[2:]
    here = sums[:, :, b : b + height, c : c + width]

    def add(depths: Sequence[int]) -> None:
        for d in depths:
            here[(begin[axis] + d) % len(sums)] += logits[:, d] * weights.plane(d)

    if pool is None:
        add(range(len(weights)))
    else:
        shares = [range(i, len(weights), pool.threads) for i in range(pool.threads)]
        list(pool.executor.map(add, shares))


def _total(i: int, begins: list[list[int]], weights: Importance, place: Slab) -> Floats:
    """``[b, c]``: the sum of the weights of all windows that cover plane ``i`` of the volume."""
    over = [i - begin for begin in begins[place.axis] if begin <= i < begin + len(weights)]
    tile = sum((weights.plane(d) for d in over[1:]), weights.plane(over[0]))
    total = np.zeros(place.shape[2:], np.float32)
    rows, columns = (begins[axis] for axis in range(3) if axis != place.axis)
    for b, c in itertools.product(rows, columns):
        total[b : b + tile.shape[0], c : c + tile.shape[1]] += tile
    return total
