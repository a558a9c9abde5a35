"""Branching tubes: how the airways and vessels of a synthetic case grow, and how they are drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
Point = NDArray[np.float64]
"""z, y, x in millimetres from the volume's corner."""
Field = NDArray[np.float32]

FAR = -1000.0
"""Depth, in millimetres, of voxels that no tube is near."""


@dataclass(frozen=True)
class Tubes:
    """Straight pieces of a tree: a cone frustum with round ends each.

    Attributes:
        ends: ``float64 [N, 2, 3]``: where each piece starts and ends, millimetres, z y x.
        radii: ``float64 [N, 2]``: radius at either end, millimetres.
    """

    ends: NDArray[np.float64]
    radii: NDArray[np.float64]

    def thicker(self, share: float, more: float) -> Tubes:
        """The same pieces with every radius ``r`` grown to ``share * r + more`` millimetres."""
        return Tubes(self.ends, self.radii * share + more)

    def wider_than(self, radius: float) -> Tubes:
        """The pieces that start at ``radius`` millimetres or more."""
        keep = self.radii[:, 0] >= radius
        return Tubes(self.ends[keep], self.radii[keep])

    def beside(self, direction: Point, share: float, radius: float) -> Tubes:
        """A companion: moved along ``direction`` by ``share`` radii, ``radius`` times as wide."""
        moved = self.ends + self.radii[..., None] * share * direction
        return Tubes(moved, self.radii * radius)


def unit(vector: Point) -> Point:
    """The vector with length one."""
    return np.asarray(vector / np.linalg.norm(vector))


def _turned(rng: Rng, direction: Point, degrees: float, plane: Point) -> tuple[Point, Point]:
    """``direction`` turned towards ``plane``, and the next plane, about square to it."""
    side = unit(plane - direction * (plane @ direction))
    angle = math.radians(degrees)
    turned = unit(direction * math.cos(angle) + side * math.sin(angle))
    return turned, unit(np.cross(turned, side) + rng.normal(0, 0.25, 3))


def _branch(
    rng: Rng, start: Point, direction: Point, radius: float, inside: Callable[[Point], bool]
) -> tuple[list[Point], list[float], Point]:
    """One winding branch: its points, its radius at each, and the direction at its end."""
    pieces = int(rng.integers(3, 6))
    step = radius * rng.uniform(3.5, 6.5) / pieces
    points, radii = [start], [radius]
    for i in range(pieces):
        direction = unit(direction + rng.normal(0, 0.13, 3))
        for _ in range(6):  # a branch that meets the region's border looks for a way along it
            if inside(points[-1] + step * direction):
                break
            direction = unit(direction + rng.normal(0, 0.6, 3))
        else:
            break
        points.append(points[-1] + step * direction)
        radii.append(radius * (1 - 0.12 * (i + 1) / pieces))
    return points, radii, direction


def grow(
    rng: Rng,
    root: Point,
    direction: Point,
    radius: float,
    thinnest: float,
    inside: Callable[[Point], bool],
) -> Tubes:
    """A tree from ``root``, halved again and again until it is thin or leaves the region.

    The two daughters of a branch carry its flow: the cubes of their radii add up to its radius's
    cube (Murray's law), shared unevenly; the thinner one turns away more.

    Args:
        rng: where its shape comes from.
        root: where it starts, millimetres, z y x.
        direction: where to, of length one.
        radius: of the first branch, millimetres.
        thinnest: radius below which nothing grows, millimetres.
        inside: whether a point belongs to the region that the tree may fill.
    """
    ends, radii = [], []
    waiting = [(root, direction, radius, unit(rng.normal(0, 1, 3)))]
    while waiting:
        start, direction, radius, plane = waiting.pop()
        points, widths, direction = _branch(rng, start, direction, radius, inside)
        ends += list(itertools.pairwise(points))
        radii += list(itertools.pairwise(widths))
        if len(points) < 2:
            continue
        share = rng.uniform(0.5, 0.85)
        for part, degrees, sign in ((share, 22.0, 1), (1 - share, 44.0, -1)):
            child = widths[-1] * part ** (1 / 3)
            if child >= thinnest:
                angle = degrees * rng.uniform(0.75, 1.35)
                turned, next_plane = _turned(rng, direction, angle, sign * plane)
                waiting.append((points[-1], turned, child, next_plane))
    return Tubes(np.array(ends).reshape(-1, 2, 3), np.array(radii).reshape(-1, 2))


def _boxes(
    tubes: Tubes, shape: tuple[int, ...], spacing: Point, margin: float
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], tuple[slice, ...]]]:
    """Each piece that touches the volume, its radii, and the voxels that may be near it."""
    reach = tubes.radii.max(1, keepdims=True) + margin
    low = np.floor((tubes.ends.min(1) - reach) / spacing).astype(int).clip(0)
    high = np.ceil((tubes.ends.max(1) + reach) / spacing).astype(int).clip(None, shape)
    for i in np.flatnonzero((low < high).all(1)):
        box = tuple(slice(a, b) for a, b in zip(low[i], high[i], strict=True))
        yield tubes.ends[i], tubes.radii[i], box


def depth(
    tubes: Tubes, shape: tuple[int, int, int], spacing: tuple[float, float, float], margin: float
) -> Field:
    """How deep inside the nearest tube each voxel's centre lies.

    Args:
        tubes: the pieces.
        shape: of the volume in voxels, z y x.
        spacing: of its voxels in millimetres, z y x.
        margin: how far outside the tubes the depth is wanted, millimetres.

    Returns:
        ``float32 [Z, Y, X]`` millimetres: positive inside, negative outside, ``FAR`` where no tube
        is within ``margin``.
    """
    field = np.full(shape, FAR, np.float32)
    size = np.array(spacing)
    centres = [
        ((np.arange(n) + 0.5) * s).astype(np.float32) for n, s in zip(shape, size, strict=True)
    ]
    for (start, end), (first, last), box in _boxes(tubes, shape, size, margin):
        z, y, x = (c[b] - np.float32(p) for c, b, p in zip(centres, box, start, strict=True))
        z, y = z[:, None, None], y[:, None]
        along = (end - start).astype(np.float32)
        length = max(float(along @ along), 1e-6)
        t = ((z * along[0] + y * along[1] + x * along[2]) / np.float32(length)).clip(0, 1)
        away = z * z + y * y + x * x
        dot = z * along[0] + y * along[1] + x * along[2]
        away = away - 2 * t * dot + t * t * np.float32(length)
        inner = np.float32(first) + np.float32(last - first) * t - np.sqrt(away.clip(0))
        np.maximum(field[box], inner, out=field[box])
    return field
