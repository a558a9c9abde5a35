"""From a volume as it was sent to the network's own grid and values, and the way back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers import resampling, windows
from handlers.intensities import normalise
from handlers.resampling import Grids
from handlers.volumes import bundles
from handlers.volumes.geometry import Geometry, Volume
from handlers.volumes.recipe import Recipe

Floats = NDArray[np.float32]
Box = tuple[slice, slice, slice]
Turn = Callable[[NDArray[Any]], NDArray[Any]]
"""A view of ``[..., z, y, x]`` along the network's axes."""


@dataclass(frozen=True)
class Prepared:
    """A volume as the network takes it.

    Attributes:
        data: ``[channels, a, b, c]``, not always contiguous.
        back: from the network's grid to that of the cropped volume.
        box: where the crop lies in the turned volume.
        turn: from the volume's axes to the network's.
        cut: where ``data`` lies on the network's grid, where a bundle crops it there.
    """

    data: Floats
    back: Grids
    box: Box
    turn: Turn
    cut: bundles.Cut | None = None


@dataclass(frozen=True)
class Memory:
    """What one volume takes in a worker, in bytes, at most.

    Attributes:
        volume: its float32 voxels as sent.
        model_volume: likewise on the network's grid; the same memory where that is the same grid.
        accumulators: the sums of logits and weights.
        mask: the answer's voxels.
        needed: the peak of all of it together, with what is held in passing.
    """

    volume: int
    model_volume: int
    accumulators: int
    mask: int
    needed: int


def turning(geometry: Geometry, recipe: Recipe) -> Turn:
    """How the volume's axes become the network's."""
    ways: Sequence[tuple[int, int]] = [(axis, 1) for axis in range(3)]
    if recipe.orientation:
        ways = _to_orientation(geometry.affine, recipe.orientation)
    ways = [ways[axis] for axis in recipe.order]

    def turn(array: NDArray[Any]) -> NDArray[Any]:
        first = array.ndim - 3
        axes = [*range(first), *(first + axis for axis, _ in ways)]
        flips = (slice(None),) * first + tuple(slice(None, None, sign) for _, sign in ways)
        found: NDArray[Any] = array.transpose(axes)[flips]
        return found

    return turn


def _to_orientation(affine: NDArray[np.float64], codes: str) -> list[tuple[int, int]]:
    """For each axis (z, y, x) of the turned volume: the old axis and its sign."""
    from nibabel import orientations as o

    wanted = o.axcodes2ornt(codes)
    moves = o.ornt_transform(o.io_orientation(affine), wanted)
    by_target = {int(target): (old, int(sign)) for old, (target, sign) in enumerate(moves)}
    return [(2 - by_target[x][0], by_target[x][1]) for x in (2, 1, 0)]


def grids(shape: Sequence[int], geometry: Geometry, recipe: Recipe) -> Grids:
    """From a (cropped) volume's grid, along the network's axes, to the network's.

    Args:
        geometry: of the whole volume.

    Raises:
        Unprocessable: as ``handlers.volumes.bundles.spaced``.
    """
    spacing = turned(geometry, recipe)
    target = recipe.spacing or tuple(spacing)
    if recipe.bundle is not None and recipe.spacing is not None:
        return bundles.spaced(shape, _placed(geometry, recipe), target)
    if len(target) < len(spacing):
        target = (spacing[0], *target)
    after = resampling.new_shape(shape, spacing, target, recipe.rule)
    return Grids(tuple(shape), after, tuple(spacing), tuple(target), recipe.rule)


def _placed(geometry: Geometry, recipe: Recipe) -> NDArray[np.float64]:
    """``[4, 4]``, from voxels along the network's axes to mm."""
    affine = geometry.affine
    if recipe.orientation:
        from nibabel import orientations as o

        wanted = o.axcodes2ornt(recipe.orientation)
        moves = o.ornt_transform(o.io_orientation(affine), wanted)
        affine = affine @ o.inv_ornt_aff(moves, geometry.shape[::-1])
    return np.asarray(affine[:, [*(2 - axis for axis in recipe.order), 3]])


def memory(geometry: Geometry, channels: int, recipe: Recipe) -> Memory:
    """What a volume of this grid takes; cropping can only make it less."""
    sides = turning(geometry, recipe)(np.broadcast_to(np.uint8(0), geometry.shape)).shape
    way = grids(sides, geometry, recipe)
    volume = 4 * channels * geometry.voxels
    inner = bundles.largest(way.after, recipe.bundle)
    model = 4 * channels * math.prod(inner)
    sums = windows.slab(inner, recipe.windows, recipe.outputs).bytes
    mask = geometry.voxels * mask_type(recipe).itemsize
    patches = 4 * recipe.windows.batch * math.prod(recipe.windows.patch)
    running = model + sums + mask + patches * (channels + 3 * recipe.outputs)
    outside = geometry.voxels * (3 if any_nonzero(recipe) else 0)
    between = 0 if way.same else 4 * _between(way)
    cropped = model * (recipe.bundle is not None and recipe.bundle.margin is not None)
    preparing = volume + max(outside, model * (not way.same) + between) + cropped
    return Memory(volume, model, sums, mask, max(preparing, running))


def _between(way: Grids) -> int:
    """Voxels of the largest step between one axis' resampling and the next, for one channel."""
    largest = 1
    for before, after in zip(way.before, way.after, strict=True):
        largest *= max(before, after)
    return largest


def turned(geometry: Geometry, recipe: Recipe) -> tuple[float, ...]:
    """The spacing along the network's axes, mm."""
    marks = (2, 3, 5)  # sides that tell the axes apart
    sides = turning(geometry, recipe)(np.empty(marks, np.uint8)).shape
    return tuple(geometry.spacing[marks.index(side)] for side in sides)


def any_nonzero(recipe: Recipe) -> bool:
    return any(c["normalisation"]["kind"] == "zscore_nonzero" for c in recipe.channels)


def mask_type(recipe: Recipe) -> np.dtype[Any]:
    """uint8, or uint16 where a label's value needs it."""
    return np.dtype(np.uint8 if max(recipe.values) < 256 else np.uint16)


def prepare(volume: Volume, recipe: Recipe, pool: windows.Pool | None = None) -> Prepared:
    """Turn -> crop -> normalise -> resample; the volume's own voxels are overwritten and let go.

    Args:
        pool: threads that normalise planes side by side.
    """
    if recipe.bundle is not None:
        return _as_bundled(volume, recipe, recipe.bundle)
    turn = turning(volume.geometry, recipe)
    view = turn(volume.data)
    box = _nonzero_box(view) if recipe.crop else _whole(view)
    crop = (slice(None), *box)
    view = view[crop]
    inside = _inside(view) if any_nonzero(recipe) else None
    for channel, how in zip(view, recipe.channels, strict=True):
        normalise(channel, how["normalisation"], inside, pool)
    del inside
    way = grids(view.shape[1:], volume.geometry, recipe)
    volume.data = np.empty((len(view), 0, 0, 0), np.float32)
    return Prepared(_resampled(view, way, recipe), way.back(), box, turn)


def _resampled(view: Floats, way: Grids, recipe: Recipe) -> Floats:
    if way.same:
        return view
    r = recipe.data
    if len(view) == 1:
        return resampling.resample(view[0], way, r.order, r.order_z, r.separate_z)[None]
    data = np.empty((len(view), *way.after), np.float32)
    for source, target in zip(view, data, strict=True):
        target[...] = resampling.resample(source, way, r.order, r.order_z, r.separate_z)
    return data


def _as_bundled(volume: Volume, recipe: Recipe, bundle: bundles.Bundle) -> Prepared:
    """Turn, then the bundle's steps in its own order; "zscore_nonzero" is each channel's own."""
    turn = turning(volume.geometry, recipe)
    data = turn(volume.data)
    box, place = _whole(data), None
    way = grids(data.shape[1:], volume.geometry, recipe)
    volume.data = np.empty((len(data), 0, 0, 0), np.float32)
    for step in bundle.order:
        if step == "spacing":
            data = _resampled(data, way, recipe)
        elif step == "crop":
            data, place = bundles.cut(data, bundle)
        else:
            for channel, how in zip(data, recipe.channels, strict=True):
                wanted = how["normalisation"]
                masked = wanted["kind"] == "zscore_nonzero"
                normalise(channel, wanted, channel != 0 if masked else None)
    return Prepared(data, way.back(), box, turn, place)


def _whole(view: Floats) -> Box:
    a, b, c = (slice(0, n) for n in view.shape[1:])
    return a, b, c


def _nonzero_box(view: Floats) -> Box:
    """The box around all that is not 0 in every channel; all where nothing is."""
    hit = [np.zeros(n, bool) for n in view.shape[1:]]
    for a in range(view.shape[1]):
        plane = np.asarray(view[:, a].any(axis=0))
        hit[0][a] = plane.any()
        hit[1] |= plane.any(axis=1)
        hit[2] |= plane.any(axis=0)
    if not hit[0].any():
        return _whole(view)
    ends = [np.flatnonzero(h)[[0, -1]] for h in hit]
    a_, b_, c_ = (slice(int(first), int(last) + 1) for first, last in ends)
    return a_, b_, c_


def _inside(view: Floats) -> NDArray[np.bool_]:
    """Where any channel is not 0, holes filled, as nnU-Net's ``create_nonzero_mask``."""
    from scipy import ndimage

    hit = np.zeros(view.shape[1:], bool)
    for a in range(len(hit)):
        hit[a] = view[:, a].any(axis=0)
    return np.asarray(ndimage.binary_fill_holes(hit))
