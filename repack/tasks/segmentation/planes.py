"""A scan in three planes: itself, the original's mask, the converted model's, the difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from handlers.drawing import COLOURS

Pixels = NDArray[np.uint8]
"""``[H, W, 3]`` uint8 RGB."""

SIDE = 240
"""Longest side of a drawn plane, pixels."""

MISSED, ADDED = (213, 94, 0), (0, 114, 178)
"""Where the original's label is lost or another, and where the converted model alone has one: told
apart by the colour blind too (Okabe and Ito, 2008)."""


class Plane(NamedTuple):
    """One plane's four pictures.

    Attributes:
        axis: the axis that it is cut across; None where the picture is flat.
        place: which slice of how many, from 0.
        extent: height and width, in mm where the spacing is known, else in voxels.
        differing: voxels of the slice that differ.
        labels: those that either mask has in the slice.
    """

    axis: int | None
    place: tuple[int, int]
    extent: tuple[float, float]
    differing: int
    labels: list[int]
    scan: Pixels
    original: Pixels
    converted: Pixels
    difference: Pixels


def cut(
    scan: NDArray[Any],
    original: NDArray[Any],
    converted: NDArray[Any],
    spacing: Sequence[float] | None = None,
) -> list[Plane]:
    """Each axis' plane where the masks differ most, or else where the original's is largest.

    Args:
        scan: ``[D, H, W]`` or ``[H, W]``, any range; shown from its 1st to its 99th percentile.
        original, converted: masks of the scan's shape, whole numbers, 0 the background.
        spacing: mm per voxel along each axis; None where unknown.

    Returns:
        Three planes of a volume, one of a flat picture.
    """
    sizes = [float(s) for s in spacing] if spacing else [1.0] * scan.ndim
    usual = scan[np.isfinite(scan)]
    low, high = np.percentile(usual, (1, 99)) if usual.size else (0, 1)
    grey = np.clip(
        (np.nan_to_num(scan, posinf=high, neginf=low) - low) / max(high - low, 1e-9), 0, 1
    )
    if scan.ndim == 2:
        return [_plane(None, (0, 1), grey, original, converted, sizes)]
    found = []
    for axis in range(3):
        place = _slice(original, converted, axis)
        flat = [np.take(a, place, axis) for a in (grey, original, converted)]
        rest = [s for i, s in enumerate(sizes) if i != axis]
        found.append(_plane(axis, (place, scan.shape[axis]), flat[0], flat[1], flat[2], rest))
    return found


def _slice(original: NDArray[Any], converted: NDArray[Any], axis: int) -> int:
    others = tuple(i for i in range(3) if i != axis)
    for counted in (original != converted, original != 0):
        if counted.any():
            return int(counted.sum(others).argmax())
    return int(original.shape[axis]) // 2


def _plane(
    axis: int | None,
    place: tuple[int, int],
    grey: NDArray[Any],
    original: NDArray[Any],
    converted: NDArray[Any],
    spacing: list[float],
) -> Plane:
    extent = grey.shape[0] * spacing[0], grey.shape[1] * spacing[1]
    scale = SIDE / max(extent)
    size = max(1, round(extent[1] * scale)), max(1, round(extent[0] * scale))

    def fit(values: NDArray[Any]) -> NDArray[Any]:
        if values.dtype == np.float64:  # a mask
            return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_NEAREST))
        smooth = cv2.INTER_AREA if size[0] < values.shape[1] else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(values, size, interpolation=smooth))

    flat = fit(grey.astype(np.float32))
    base = np.repeat((flat * 255).astype(np.uint8)[..., None], 3, 2)
    first, second = (fit(m.astype(np.int32).astype(np.float64)) for m in (original, converted))
    missed = (first != second) & (first != 0)
    added = (first != second) & (first == 0)
    difference = base // 3
    difference[missed], difference[added] = MISSED, ADDED
    differing = int((original != converted).sum())
    labels = [int(label) for label in np.union1d(original, converted) if label]
    shown = base, _over(base, first), _over(base, second), difference
    return Plane(axis, place, extent, differing, labels, *shown)


def _over(base: Pixels, mask: NDArray[Any]) -> Pixels:
    """The scan with its labels in colour, half transparent."""
    shown = base.astype(np.float32)
    for label in np.unique(mask[mask != 0]):
        shown[mask == label] = 0.45 * shown[mask == label] + 0.55 * np.array(colour(int(label)))
    return shown.astype(np.uint8)


def colour(label: int) -> tuple[int, int, int]:
    """A label's RGB colour; they begin anew where there are more labels than colours."""
    return COLOURS[(label - 1) % len(COLOURS)]
