"""Synthetic scenes: six kinds of shape on varied backgrounds, with their boxes.

A scene depends on ``(seed, index)`` and the picture's size alone, so a data set is two numbers.
Nothing that looks like an object is left without a box: a shape which would hide another too much,
or which would lie too far outside, is not drawn.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from examples.shapes.backgrounds import Picture, Rng, background, camera, clutter, colour, scratches

CLASSES = ("circle", "square", "triangle", "star", "cross", "ring")
TRAIN_SEED, HELD_OUT_SEED = 1, 2

SMALLEST, LARGEST = 17.0, 330.0
"""Diameter of the circle around a shape, in pixels of a picture whose longer side is 640."""
INSIDE, UNCOVERED = 0.45, 0.65
"""Least share of a shape's area inside the picture, and left free by shapes drawn over it."""
CONTRAST = 75.0
"""Least distance between a shape's colour and the mean colour behind it, in RGB levels."""


def _outline(rng: Rng, kind: int) -> NDArray[np.float64]:
    """The outer outline of a class inside the unit circle, ``[points, 2]``."""
    if kind in (0, 5):
        return _ngon(72)
    if kind == 1:
        return _ngon(4)
    if kind == 2:
        return _ngon(3)
    if kind == 3:
        star = _ngon(10)
        star[1::2] *= rng.uniform(0.36, 0.48)
        return star
    arm = rng.uniform(0.22, 0.36)
    corner = [(1, -arm), (1, arm), (arm, arm)]
    turned = [
        np.array(corner) @ np.array([[c, s], [-s, c]])
        for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))
    ]
    cross: NDArray[np.float64] = np.concatenate(turned) / np.hypot(1, arm)
    return cross


def _ngon(points: int) -> NDArray[np.float64]:
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack((np.cos(angles), np.sin(angles)), 1)


class _Shape:
    """One shape, placed: its mask in the picture, its box, and how much of it lies inside."""

    def __init__(self, rng: Rng, width: int, height: int) -> None:
        self.kind = int(rng.integers(len(CLASSES)))
        unit = max(width, height) / 640
        largest = min(LARGEST * unit, 0.62 * min(width, height))
        radius = 0.5 * np.exp(rng.uniform(np.log(SMALLEST * unit), np.log(largest)))
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        stretch = np.array([1.0, rng.uniform(0.85, 1.0)])
        outline = _outline(rng, self.kind) * stretch @ turn.T * radius
        reach = np.abs(outline).max(0)
        margin = -0.35 if rng.random() < 0.15 else 1.0
        low, high = reach * margin, (width, height) - reach * margin
        self.points = outline + rng.uniform(low, high)
        self.x1, self.y1 = np.maximum(np.floor(self.points.min(0)).astype(int) - 2, 0).tolist()
        self.x2, self.y2 = np.minimum(
            np.ceil(self.points.max(0)).astype(int) + 3, (width, height)
        ).tolist()
        self.hole = self.points.mean(0) + (self.points - self.points.mean(0)) * rng.uniform(
            0.45, 0.68
        )
        self.mask = self._mask()
        self.area = self._area()
        self.inside = cv2.countNonZero((self.mask >= 128).view(np.uint8)) / max(self.area, 1.0)

    def _mask(self) -> Picture:
        """Coverage 0..255 of the part inside the picture, ``[y2 - y1, x2 - x1]``."""
        mask = np.zeros((self.y2 - self.y1, self.x2 - self.x1), np.uint8)
        for points, value in ((self.points, 255), (self.hole, 0)):
            if value or self.kind == 5:
                corners = np.round((points - (self.x1, self.y1) - 0.5) * 16).astype(np.int32)
                cv2.fillPoly(mask, [corners], value, cv2.LINE_AA, 4)
        return mask

    def _area(self) -> float:
        outer = cv2.contourArea(self.points.astype(np.float32))
        inner = cv2.contourArea(self.hole.astype(np.float32)) if self.kind == 5 else 0.0
        return float(outer - inner)

    def box(self, width: int, height: int) -> NDArray[np.float32]:
        """x1, y1, x2, y2 of the part inside the picture."""
        low, high = self.points.min(0), self.points.max(0)
        if (low < 0).any() or (high > (width, height)).any():
            x, y, w, h = cv2.boundingRect((self.mask >= 128).view(np.uint8))
            low, high = (
                np.array([self.x1 + x, self.y1 + y]),
                np.array([self.x1 + x + w, self.y1 + y + h]),
            )
        return np.concatenate((low, high)).astype(np.float32)


def _ink(rng: Rng, behind: Picture, mask: Picture) -> tuple[int, int, int]:
    """A colour that stands out from what is behind; the best of twelve where none does."""
    ground = np.array(cv2.mean(behind, mask)[:3])
    best, distance = colour(rng), -1.0
    for _ in range(12):
        ink = colour(rng)
        far = float(np.linalg.norm(np.array(ink) - ground))
        if far > distance:
            best, distance = ink, far
        if far >= CONTRAST:
            break
    return best


def _paint(rng: Rng, picture: Picture, shape: _Shape) -> None:
    """Draw a shape: flat or shaded, with or without an outline, its edge sharp or a little soft."""
    behind = picture[shape.y1 : shape.y2, shape.x1 : shape.x2]
    ink = _ink(rng, behind, shape.mask)
    height, width = shape.mask.shape
    paint = np.empty((height, width, 3), np.uint8)
    paint[:] = ink
    style = rng.random()
    if style < 0.3:
        corners = np.clip(np.array(ink) + rng.normal(0, 22, (2, 2, 3)), 0, 255).astype(np.uint8)
        paint = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR).astype(
            np.uint8
        )
    if 0.2 < style < 0.4 and min(width, height) > 30:
        _edge(rng, paint, shape)
    mask = shape.mask
    if rng.random() < 0.2:
        mask = cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(0.5, 1.2))).astype(np.uint8)
    alpha = cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB)
    behind[:] = cv2.add(
        cv2.multiply(paint, alpha, scale=1 / 255),
        cv2.multiply(behind, cv2.bitwise_not(alpha), scale=1 / 255),
    )


def _edge(rng: Rng, paint: Picture, shape: _Shape) -> None:
    """A darker or lighter outline, inside the shape's own area."""
    rim = np.clip(paint.mean((0, 1)) * rng.choice([0.4, 0.6, 1.5]), 0, 255).tolist()
    thickness = max(2, int(min(paint.shape[:2]) * rng.uniform(0.04, 0.1)))
    outlines = (shape.points, shape.hole) if shape.kind == 5 else (shape.points,)
    for points in outlines:
        corners = np.round((points - (shape.x1, shape.y1) - 0.5) * 16).astype(np.int32)
        cv2.polylines(paint, [corners], True, rim, thickness, cv2.LINE_AA, 4)


class _Layout:
    """Which shape owns which pixel, to keep occlusion mild."""

    def __init__(self, width: int, height: int) -> None:
        self.owner = np.zeros((height, width), np.uint8)
        self.visible: list[float] = []
        self.areas: list[float] = []

    def accepts(self, shape: _Shape) -> bool:
        """Take the shape, unless too little of it is inside or of those below stays visible."""
        if shape.inside < INSIDE:
            return False
        region = self.owner[shape.y1 : shape.y2, shape.x1 : shape.x2]
        solid = shape.mask >= 128
        lost = np.bincount(region[solid], minlength=len(self.visible) + 1)[1:]
        left = [v - float(n) for v, n in zip(self.visible, lost, strict=True)]
        if any(v < UNCOVERED * area for v, area in zip(left, self.areas, strict=True)):
            return False
        inside = float(np.count_nonzero(solid))
        self.visible = [*left, inside]
        self.areas.append(inside)
        region[solid] = len(self.visible)
        return True


def scene(
    seed: int, index: int, width: int = 640, height: int = 640
) -> tuple[Picture, NDArray[np.float32], NDArray[np.int64]]:
    """Scene ``index`` of the series ``seed``.

    Args:
        seed: which series; ``TRAIN_SEED`` and ``HELD_OUT_SEED`` are the shipped model's.
        index: which scene of the series, at least 0.
        width, height: size in pixels, at least 64; shapes grow with the longer side.

    Returns:
        The picture, ``uint8 [height, width, 3]`` RGB; the boxes, ``float32 [M, 4]`` as x1, y1, x2,
        y2 in pixels, inside the picture; the classes, ``int64 [M]``, indices into ``CLASSES``.
        M is 0 to 14.
    """
    rng = np.random.default_rng([seed, index])
    unit = max(width, height) / 640
    picture = background(rng, width, height)
    clutter(rng, picture, unit)
    layout = _Layout(width, height)
    boxes: list[NDArray[np.float32]] = []
    classes: list[int] = []
    wanted = int(rng.integers(0, 15)) if rng.random() < 0.85 else int(rng.integers(0, 3))
    for _ in range(wanted):
        for _ in range(4):
            shape = _Shape(rng, width, height)
            if layout.accepts(shape):
                _paint(rng, picture, shape)
                boxes.append(shape.box(width, height))
                classes.append(shape.kind)
                break
    scratches(rng, picture)
    return (
        camera(rng, picture),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
    )
