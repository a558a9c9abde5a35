"""Resampling between a volume's own grid and the model's, one axis after the other.

Interpolation on a regular grid is linear in the values and separable, so each axis is one small
matrix: the same numbers as interpolating in three dimensions at once, in 32-bit floats and without
float64 copies of the volume.

Two conventions of where the new voxels lie:

- "nnunet": the first and the last voxel's outer edges stay in place (``skimage.transform.resize``,
  which nnU-Net v2 uses: ``nnunetv2/preprocessing/resampling/default_resampling.py``).
- "monai": the first voxel's centre stays in place, or lies where the grid's ``first`` says
  (MONAI's ``Spacing``, with ``compute_shape_offset`` in ``monai/data/utils.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

ANISOTROPIC = 3
"""Ratio of the largest to the smallest spacing beyond which nnU-Net treats one axis apart."""

NEGLIGIBLE = 1e-10
"""A cubic spline reaches over the whole axis, to a quarter with each voxel; from here on not
even float32's last digit changes, and numbers below its normal range are slow."""

BAND = 64
"""New voxels computed together."""

Floats = NDArray[np.float32]
Plane = TypeVar("Plane", bound=Any)
"""``[k, b, c]``: an array, or a tensor on a device."""


class Grids(NamedTuple):
    """From one grid to another: voxels and mm along each axis, before and after.

    Attributes:
        first: where the first new voxel's centre lies, in voxels of the old grid; only "monai".
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    spacing_before: tuple[float, ...]
    spacing_after: tuple[float, ...]
    rule: str
    first: tuple[float, ...] = (0.0, 0.0, 0.0)

    @property
    def same(self) -> bool:
        """Whether nothing moves; nnU-Net leaves a volume alone where its size stays the same."""
        moved = any(self.first) or self.spacing_before != self.spacing_after
        return self.before == self.after and not (moved and self.rule == "monai")

    def back(self) -> Grids:
        """The way back."""
        old, new = self.spacing_before, self.spacing_after
        first = tuple(-f * a / b for f, a, b in zip(self.first, old, new, strict=True))
        return Grids(self.after, self.before, new, old, self.rule, first)


def new_shape(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float], rule: str
) -> tuple[int, ...]:
    """How many voxels of ``target`` mm an axis has that had ``shape`` of ``spacing`` mm."""
    if rule == "monai":
        sides = [
            (n - 1) * old / new + 1 for n, old, new in zip(shape, spacing, target, strict=True)
        ]
    else:
        sides = [old / new * n for n, old, new in zip(shape, spacing, target, strict=True)]
    return tuple(max(1, round(side)) for side in sides)


def apart(before: Sequence[float], after: Sequence[float], forced: bool | None) -> int | None:
    """The axis that is resampled on its own, as nnU-Net v2 decides it; None where there is none.

    Args:
        before, after: mm along each axis.
        forced: True or False decide whether; None asks the spacings.
    """
    if forced is False:
        return None
    if forced:
        return _coarsest(before)
    for spacing in (before, after):
        if max(spacing) / min(spacing) > ANISOTROPIC:
            return _coarsest(spacing)
    return None


def _coarsest(spacing: Sequence[float]) -> int | None:
    found = [axis for axis, mm in enumerate(spacing) if max(spacing) / mm == 1]
    return found[0] if len(found) == 1 else None


def places(grids: Grids, axis: int) -> NDArray[np.float64]:
    """Where the new voxels lie along an axis, in voxels of the old grid."""
    before, after = grids.before[axis], grids.after[axis]
    steps = np.arange(after, dtype=np.float64)
    if grids.rule == "monai":
        ratio = grids.spacing_after[axis] / grids.spacing_before[axis]
        return steps * ratio + grids.first[axis]
    return np.asarray((steps + 0.5) * (before / after) - 0.5)


def matrix(before: int, at: NDArray[np.float64], order: int) -> Floats:
    """``[len(at), before]``: what interpolating at these places takes from each old voxel.

    Splines of ``order``, the first and last value continued outwards, as ``scipy.ndimage`` has it.
    """
    from scipy import ndimage

    found = np.empty((len(at), before), np.float32)
    unit = np.zeros(before)
    for i in range(before):
        unit[i] = 1
        found[:, i] = ndimage.map_coordinates(unit, [at], order=order, mode="nearest")
        unit[i] = 0
    found[np.abs(found) < NEGLIGIBLE] = 0
    return found


def resample(
    volume: Floats, grids: Grids, order: int, order_z: int, separate_z: bool | None
) -> Floats:
    """A volume on the new grid.

    Args:
        volume: ``[a, b, c]``.
        order: of the splines, 0 to 5.
        order_z: of the axis that is resampled on its own.
        separate_z: as ``forced`` in ``apart``.

    Returns:
        The values, never beyond those of the volume (or of the slice, where slices are resampled
        one by one): splines overshoot, and ``skimage.transform.resize`` clips.
    """
    if grids.same:
        return volume
    own = apart(grids.spacing_before, grids.spacing_after, separate_z)
    inner = [axis for axis in range(3) if axis != own]
    low, high = _range(volume, own)
    inner.sort(key=lambda axis: grids.after[axis] / grids.before[axis])
    for axis in inner:
        volume = _along(volume, axis, grids, order)
    if order > 1:
        np.clip(volume, low, high, out=volume)
    return volume if own is None else _along(volume, own, grids, order_z)


def _range(volume: Floats, own: int | None) -> tuple[Any, Any]:
    """Lowest and highest value, of each slice across ``own`` where there is one."""
    axes = None if own is None else tuple(axis for axis in range(3) if axis != own)
    return volume.min(axes, keepdims=True), volume.max(axes, keepdims=True)


def _along(volume: Floats, axis: int, grids: Grids, order: int) -> Floats:
    before, after = grids.before[axis], grids.after[axis]
    at = places(grids, axis)
    if before == after and np.array_equal(at, np.arange(after)):
        return volume.copy() if volume.base is not None else volume
    shape = list(volume.shape)
    shape[axis] = after
    out = np.empty(shape, np.float32)
    weights = matrix(before, at, order)
    for new, old in _bands(weights):
        part = weights[new, old]
        if axis == 0:
            flat = np.ascontiguousarray(volume[old]).reshape(part.shape[1], -1)
            np.matmul(part, flat, out=out[new].reshape(len(part), -1))
            continue
        for source, target in zip(volume, out, strict=True):
            if axis == 1:
                np.matmul(part, source[old], out=target[new])
            else:
                np.matmul(source[:, old], part.T, out=target[:, new])
    return out


def _bands(weights: Floats) -> Iterator[tuple[slice, slice]]:
    """Blocks of new voxels, and the old ones that they take from: the matrix is 0 elsewhere."""
    for i in range(0, len(weights), BAND):
        block = weights[i : i + BAND]
        used = np.flatnonzero(block.any(axis=0))
        yield slice(i, i + len(block)), slice(int(used[0]), int(used[-1]) + 1)


class Blend(NamedTuple):
    """Linear or nearest interpolation of one axis: two old voxels and the second one's share."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    share: Floats

    @property
    def same(self) -> bool:
        """Whether it takes each voxel as it is."""
        return np.array_equal(self.low, np.arange(len(self.low))) and not self.share.any()


def blends(grids: Grids, order: int, order_z: int, separate_z: bool | None) -> list[Blend]:
    """How each axis is interpolated; orders 0 and 1 only.

    Raises:
        ValueError: another order.
    """
    own = apart(grids.spacing_before, grids.spacing_after, separate_z)
    found = []
    for axis, (before, after) in enumerate(zip(grids.before, grids.after, strict=True)):
        at = places(grids, axis)
        if grids.same:
            at = np.arange(after, dtype=np.float64)
        found.append(_blend(before, at, order_z if axis == own else order))
    return found


def _blend(before: int, at: NDArray[np.float64], order: int) -> Blend:
    inside = np.clip(at, 0, before - 1)
    if order == 0:
        # as scipy.ndimage rounds: half up
        nearest = np.minimum(np.floor(inside + 0.5), before - 1).astype(np.int64)
        return Blend(nearest, nearest, np.zeros(len(at), np.float32))
    if order != 1:
        raise ValueError(f"order {order}: logits are interpolated with order 0 or 1")
    low = np.floor(inside).astype(np.int64)
    high = np.minimum(low + 1, before - 1)
    return Blend(low, high, (inside - low).astype(np.float32))


def blend_planes(
    planes: Iterator[Plane],
    axes: Sequence[Blend],
    within: Callable[[Plane, Sequence[Blend]], Plane],
) -> Iterator[Plane]:
    """Interpolates a stack whose planes come one by one; two of them are held.

    Args:
        planes: ``[k, b, c]`` each, along the first axis, in order.
        axes: of the stack's three axes.
        within: interpolates one plane: ``blend_plane``, or the like of it on a device.

    Yields:
        ``[k, b', c']`` planes of the new grid, in order.
    """
    first, *inner = axes
    if first.same:
        for plane in planes:
            yield within(plane, inner)
        return
    held: dict[int, Plane] = {}
    came = 0
    for low, high, share in zip(first.low, first.high, first.share, strict=True):
        while came <= high:
            plane = next(planes)
            if came >= low:
                held[came] = within(plane, inner)
            came += 1
        for old in [k for k in held if k < low]:
            del held[old]
        yield held[low] if share == 0 else held[low] * (1 - share) + held[high] * share


def blend_plane(plane: Floats, inner: Sequence[Blend]) -> Floats:
    """``[k, b, c]`` interpolated along its last two axes."""
    for axis, blend in enumerate(inner, 1):
        if blend.same and plane.shape[axis] == len(blend.low):
            continue
        shape = (-1, 1) if axis == 1 else (-1,)
        share = blend.share.reshape(shape)
        mixed = np.take(plane, blend.low, axis)
        if share.any():
            mixed *= 1 - share
            mixed += np.take(plane, blend.high, axis) * share
        plane = mixed
    return plane
