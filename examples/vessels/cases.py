"""Synthetic chest CT: airways and vessels in a noisy lung, with the labels that made them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from examples.vessels.trees import Field, Point, Rng, Tubes, depth, grow, unit

LABELS = ("background", "airway", "vessel")
AIRWAY, VESSEL = 1, 2
SPACING = (1.25, 0.75, 0.75)
"""Voxel size in millimetres, z y x, that the shipped model works on."""
TRAIN_SEED, HELD_OUT_SEED = 1, 2
BLUR = 1.0
"""Width of an edge in millimetres: the scanner's own blur, so borders are partial volumes."""

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Case:
    """One synthetic scan.

    Attributes:
        scan: ``int16 [Z, Y, X]``, Hounsfield units, -1024 to 3071.
        labels: ``uint8 [Z, Y, X]``, indices into ``LABELS``.
        spacing: millimetres, z y x.
    """

    scan: NDArray[np.int16]
    labels: NDArray[np.uint8]
    spacing: tuple[float, float, float]


def smooth(rng: Rng, shape: Shape, spacing: tuple[float, float, float], scale: float) -> Field:
    """A smooth random field: about standard normal, its hills about ``scale`` millimetres apart."""
    sides = [n * s / scale for n, s in zip(shape, spacing, strict=True)]
    field = rng.standard_normal([int(side) + 3 for side in sides], np.float32)
    for axis in (2, 1, 0):
        at = (np.arange(shape[axis]) + 0.5) * (sides[axis] / shape[axis])
        low = at.astype(int)
        part = (at - low).astype(np.float32)
        part = part * part * (3 - 2 * part)
        part = part.reshape([-1 if i == axis else 1 for i in range(3)])
        first, second = (np.take(field, low + i, axis) for i in (0, 1))
        field = first + (second - first) * part
    return field


class _Lung:
    """The region the trees fill: an ellipsoid with an uneven wall, and its hilum on one side."""

    def __init__(self, rng: Rng, shape: Shape, spacing: tuple[float, float, float]):
        self.extent = np.array(shape) * spacing
        self.centre = self.extent * rng.uniform(0.44, 0.56, 3)
        self.half = self.extent * rng.uniform(0.40, 0.60, 3)
        medial = np.array([0.0, 0.0, rng.choice([-1.0, 1.0])])
        inward = unit(rng.normal(0, 0.35, 3) + medial)
        self.inward = inward
        self.hilum = self.centre - inward * np.minimum(self.half, 0.47 * self.extent) * 0.95
        self.scale = float(self.extent.min())

    def inside(self, point: Point) -> bool:
        """Whether a tree may grow there: the lung less a thin layer under its wall."""
        return bool((((point - self.centre) / self.half) ** 2).sum() < 0.9)

    def share(self, rng: Rng, shape: Shape, spacing: tuple[float, float, float]) -> Field:
        """Share of lung per voxel, 0 to 1 (the rest is the chest's wall)."""
        z, y, x = (
            (((np.arange(n) + 0.5) * s - c) / h).astype(np.float32) ** 2
            for n, s, c, h in zip(shape, spacing, self.centre, self.half, strict=True)
        )
        radius = np.sqrt(z[:, None, None] + y[:, None] + x)
        bumps = 0.05 * smooth(rng, shape, spacing, 30.0)
        share: Field = (1 + bumps - radius) * np.float32(self.half.min()) / BLUR + 0.5
        return share.clip(0, 1)


def _trees(rng: Rng, lung: _Lung) -> tuple[Tubes, list[Tubes]]:
    """Airways, and the arteries beside them with the veins between them."""
    width = float(np.clip(0.05 * lung.scale, 3.0, 9.0)) * rng.uniform(0.85, 1.2)
    start = lung.hilum + rng.normal(0, 2.0, 3)
    skeleton = grow(rng, start, lung.inward, width, 0.75, lung.inside)
    side = unit(np.cross(lung.inward, rng.normal(0, 1, 3)))
    vessels = [skeleton.beside(side, 2.35, rng.uniform(0.8, 1.0))]
    for sign in (-1, 1):
        aside = sign * np.cross(lung.inward, side) - side * rng.uniform(0.2, 0.8)
        start = lung.hilum + unit(aside) * width * rng.uniform(2.2, 3.2)
        heading = unit(lung.inward + 0.5 * unit(aside))
        vessels.append(grow(rng, start, heading, width * 0.8, 0.75, lung.inside))
    return skeleton.wider_than(1.2), vessels


def _covered(
    tubes: Tubes, shape: Shape, spacing: tuple[float, float, float]
) -> tuple[Field, Field]:
    """Share of each voxel that the tubes cover (0 to 1), and the depth it comes from."""
    deep = depth(tubes, shape, spacing, margin=BLUR)
    return (deep / BLUR + 0.5).clip(0, 1), deep


def _joined(tubes: list[Tubes]) -> Tubes:
    return Tubes(np.concatenate([t.ends for t in tubes]), np.concatenate([t.radii for t in tubes]))


def _nodules(rng: Rng, lung: _Lung) -> Tubes:
    """Round spots as dense as vessels that belong to no tree, and are labelled background."""
    count = int(rng.integers(0, 6))
    places = lung.centre + lung.half * rng.uniform(-0.6, 0.6, (count, 3))
    radii = rng.uniform(1.5, 5.0, (count, 1)).repeat(2, 1)
    return Tubes(np.stack((places, places + rng.normal(0, 1, places.shape)), 1), radii)


def _ribs(rng: Rng, lung: _Lung) -> Tubes:
    """Bent bars of bone in the chest's wall."""
    ends, radii = [], []
    for height in np.arange(0.02, 1.0, 22.0 / lung.extent[0]):
        angles = np.linspace(0, 2 * np.pi, 33)
        ring = np.stack((np.zeros(33), np.cos(angles), np.sin(angles)), 1)
        ring[:, 0] = height * lung.extent[0] - lung.centre[0] + 6 * np.cos(angles + 0.4)
        ring[:, 1:] *= lung.half[1:] * 1.06 + 6.0
        points = lung.centre + ring
        ends.append(np.stack((points[:-1], points[1:]), 1))
        radii.append(np.full((32, 2), rng.uniform(2.5, 4.0)))
    return Tubes(np.concatenate(ends), np.concatenate(radii))


def _noise(rng: Rng, shape: Shape) -> Field:
    """Scanner noise of standard deviation one, correlated over neighbouring pixels of a slice."""
    noise = rng.standard_normal(shape, np.float32)
    for axis in (1, 2):
        rolled = np.roll(noise, 1, axis)
        noise = noise + np.float32(rng.uniform(0.2, 0.9)) * rolled
    return np.asarray(noise / noise.std())


def case(
    seed: int, index: int, shape: Shape, spacing: tuple[float, float, float] = SPACING
) -> Case:
    """Case ``index`` of the series ``seed``.

    The same seed, index, shape and spacing give the same case with the pinned NumPy. A bigger
    shape is a bigger lung, not a wider view of the same one.

    Args:
        seed: which series; ``TRAIN_SEED`` and ``HELD_OUT_SEED`` are the shipped model's.
        index: which case of the series, at least 0.
        shape: voxels, z y x, each at least 16.
        spacing: millimetres, z y x.
    """
    rng = np.random.default_rng([seed, index, *shape])
    lung = _Lung(rng, shape, spacing)
    airways, vessels = _trees(rng, lung)
    scan = rng.uniform(-900, -800) + 28 * smooth(rng, shape, spacing, 25.0)
    scan += 22 * smooth(rng, shape, spacing, 4.0)
    scan += rng.uniform(0, 160) * (smooth(rng, shape, spacing, 35.0) - 1.2).clip(0, 1.5)

    def paint(share: Field, value: Field | float) -> None:
        nonlocal scan
        scan += share * (value - scan)

    paint(_covered(_nodules(rng, lung), shape, spacing)[0], rng.uniform(-20, 60))
    wall = (
        30 - 130 * (smooth(rng, shape, spacing, 12.0) > 0.4) + 8 * smooth(rng, shape, spacing, 6.0)
    )
    inside = lung.share(rng, shape, spacing)
    paint(1 - inside, wall.astype(np.float32))
    paint(_covered(_ribs(rng, lung), shape, spacing)[0], rng.uniform(250, 600))
    share, blood = _covered(_joined(vessels), shape, spacing)
    paint(share * inside, rng.uniform(30, 320))  # in the wall nothing would tell them from muscle
    outer, shell = _covered(airways.thicker(1.15, 0.55), shape, spacing)
    paint(outer, rng.uniform(-60, 60))
    share, lumen = _covered(airways, shape, spacing)
    paint(share, rng.uniform(-1010, -960))
    vessel = (blood >= 0) & (shell < 0) & (inside >= 0.5)
    labels = np.where(lumen >= 0, AIRWAY, np.where(vessel, VESSEL, 0))
    scan += rng.uniform(12, 45) * _noise(rng, shape)
    hounsfield = np.rint(scan).clip(-1024, 3071).astype(np.int16)
    return Case(hounsfield, labels.astype(np.uint8), spacing)
