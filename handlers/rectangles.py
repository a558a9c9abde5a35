"""Rectangles at an angle.

A rectangle is a row of five: centre x and y, width, height, and the angle from the x axis to its
width, radians, clockwise on the screen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

VALUES = 5
"""Of a rectangle."""

STEP = 32
"""Boxes that are compared at once with all that are better."""

LEAST = 1e-12
"""Of an area or a determinant that is divided by: rectangles may have no area."""


def corners(rectangles: NDArray[Any]) -> NDArray[np.float64]:
    """``[M, 5]`` to ``[M, 4, 2]``: from the corner before both of its sides on, clockwise."""
    centre, size, angle = np.split(np.asarray(rectangles, np.float64), (2, 4), axis=1)
    along = np.concatenate((np.cos(angle), np.sin(angle)), 1) * size[:, :1] / 2
    across = np.concatenate((-np.sin(angle), np.cos(angle)), 1) * size[:, 1:] / 2
    sides = (-along - across, along - across, along + across, across - along)
    return np.asarray(centre[:, None] + np.stack(sides, 1))


def likeness(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """``[K, 5]`` and ``[M, 5]`` to ``[K, M]`` in 0..1: ProbIoU (Llerena et al. 2021).

    Each rectangle stands for the normal distribution with the moments of its area; what is left of
    1 is the Hellinger distance of the two.
    """
    one, other = np.asarray(one, np.float64)[:, None], np.asarray(other, np.float64)[None]
    x, y = one[..., 0] - other[..., 0], one[..., 1] - other[..., 1]
    (xx, yy, xy), (more_xx, more_yy, more_xy) = _moments(one), _moments(other)
    xx, yy, xy = xx + more_xx, yy + more_yy, xy + more_xy
    whole = np.maximum(xx * yy - xy * xy, LEAST)
    far = (x * x * yy - 2 * x * y * xy + y * y * xx) / (4 * whole)
    areas = np.abs(one[..., 2] * one[..., 3] * other[..., 2] * other[..., 3]) / 144
    unlike = np.log(np.maximum(whole / np.maximum(4 * areas, LEAST), LEAST)) / 2
    return np.asarray(1 - np.sqrt(1 - np.exp(-np.maximum(far + unlike, 0))))


def _moments(rectangles: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Variances along x and y, and their covariance, of the areas."""
    width, height = rectangles[..., 2] ** 2 / 12, rectangles[..., 3] ** 2 / 12
    cos, sin = np.cos(rectangles[..., 4]), np.sin(rectangles[..., 4])
    return (
        width * cos**2 + height * sin**2,
        width * sin**2 + height * cos**2,
        (width - height) * cos * sin,
    )


def distinct(
    rectangles: NDArray[Any], classes: NDArray[Any], threshold: float, limit: int
) -> list[int]:
    """The rectangles, most confident first, that are alike to no better one of their class; one
    that is dropped itself counts, too (Fast NMS, Bolya et al. 2019).

    Args:
        rectangles: ``[M, 5]``, most confident first.
        classes: ``[M]``.
        threshold: of likeness.
        limit: the first so many.
    """
    kept: list[int] = []
    for start in range(0, len(rectangles), STEP):
        end = min(start + STEP, len(rectangles))
        alike = likeness(rectangles[start:end], rectangles[:end]) > threshold
        alike &= classes[start:end, None] == classes[:end]
        alike &= np.arange(end) < np.arange(start, end)[:, None]
        kept += (np.flatnonzero(~alike.any(1)) + start).tolist()
        if len(kept) >= limit:
            break
    return kept[:limit]


def overlap(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Intersection over union of two rectangles ``[5]``."""
    first, second = corners(np.stack((one, other)))
    shared = first
    for start, end in zip(second, np.roll(second, -1, 0), strict=True):
        shared = _cut(shared, start, end)
    areas = _area(first), _area(second), _area(shared)
    return areas[2] / max(areas[0] + areas[1] - areas[2], LEAST)


def _cut(
    outline: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What of a convex outline lies to the right of a line, as it is walked on the screen."""
    if not len(outline):
        return outline
    (dx, dy), rest = end - start, outline - start
    inside = dx * rest[:, 1] - dy * rest[:, 0]
    found = []
    for i, (point, here) in enumerate(zip(outline, inside, strict=True)):
        last, before = outline[i - 1], inside[i - 1]
        if (here < 0) != (before < 0):
            found.append(last + (point - last) * before / (before - here))
        if here >= 0:
            found.append(point)
    return np.array(found).reshape(-1, 2)


def _area(outline: NDArray[np.float64]) -> float:
    x, y = outline[:, 0], outline[:, 1]
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
