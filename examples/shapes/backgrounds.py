"""Backgrounds, distractors and camera effects of the scenes: everything that is no object.

Every function draws from the generator that it is given and from nothing else, so a scene is a
function of its seed. Pictures are ``uint8 [H, W, 3]`` RGB.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Rng = np.random.Generator

_BANK = 1024
"""Side of the noise tile, in pixels; scenes take crops of it."""


def _u8(array: Any) -> Picture:
    return np.asarray(array, np.uint8)


@cache
def _noise_bank() -> Picture:
    """Unit noise as 128 + 40 * noise, made once: drawing it per scene is slow."""
    bank = np.random.default_rng(20261120).normal(128, 40, (_BANK, _BANK, 3))
    return _u8(np.clip(np.round(bank), 0, 255))


def _noise(rng: Rng, width: int, height: int) -> Picture:
    """A crop of the bank, ``[H, W, 3]``, repeated where the picture is larger than the bank."""
    wide, tall = min(width, _BANK), min(height, _BANK)
    x, y = int(rng.integers(_BANK - wide + 1)), int(rng.integers(_BANK - tall + 1))
    crop = _noise_bank()[y : y + tall, x : x + wide]
    if (wide, tall) == (width, height):
        return crop
    return _u8(cv2.copyMakeBorder(crop, 0, height - tall, 0, width - wide, cv2.BORDER_WRAP))


def colour(rng: Rng) -> tuple[int, int, int]:
    """A random RGB colour: vivid, pale, dark or grey, each about as often as the others."""
    base = rng.random(3)
    kind = rng.integers(4)
    if kind == 1:
        base = 0.6 + 0.4 * base
    elif kind == 2:
        base = 0.4 * base
    elif kind == 3:
        base = np.full(3, base[0]) + rng.normal(0, 0.03, 3)
    r, g, b = np.clip(base * 255, 0, 255).astype(int).tolist()
    return r, g, b


def _grid(rng: Rng, rows: int, columns: int, spread: float) -> Picture:
    """Random colours around one colour: ``[rows, columns, 3]``, ``spread`` in 0..255."""
    centre = np.array(colour(rng), float)
    return _u8(np.clip(centre + rng.normal(0, spread, (rows, columns, 3)), 0, 255))


def _gradient(rng: Rng, width: int, height: int) -> Picture:
    small = _u8(rng.integers(0, 256, (int(rng.integers(2, 4)), int(rng.integers(2, 4)), 3)))
    return _u8(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def _blobs(rng: Rng, width: int, height: int) -> Picture:
    cells = int(rng.integers(4, 24))
    small = _grid(rng, cells, cells, rng.uniform(15, 60))
    return _u8(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def _clouds(rng: Rng, width: int, height: int) -> Picture:
    """Noise of several scales on top of each other."""
    picture = _blobs(rng, width, height)
    for cells in (16, 48, 128):
        fine = _u8(np.clip(rng.normal(128, 50, (cells, cells)), 0, 255))
        layer = cv2.resize(fine, (width, height), interpolation=cv2.INTER_LINEAR)
        picture = _u8(
            cv2.addWeighted(picture, 0.75, cv2.cvtColor(layer, cv2.COLOR_GRAY2RGB), 0.25, 0)
        )
    return picture


def _stripes(rng: Rng, width: int, height: int) -> Picture:
    """Straight bands of two to four colours at any angle, hard or soft."""
    side = max(width, height)
    period = float(rng.uniform(10, 90))
    bands = max(3, int(2 * side / period))
    row = _grid(rng, 1, int(rng.integers(2, 5)), rng.uniform(12, 50))
    row = np.tile(row, (1, bands, 1))[:, :bands]
    mode = cv2.INTER_NEAREST if rng.random() < 0.5 else cv2.INTER_LINEAR
    turn = cv2.getRotationMatrix2D((bands / 2, 0.5), float(rng.uniform(0, 180)), period)
    turn[:, 2] += np.array([width / 2 - bands / 2, height / 2 - 0.5])
    tall = np.repeat(row, bands, axis=0)
    turn[:, 2] -= turn[:, :2] @ np.array([0.0, bands / 2])
    return _u8(
        cv2.warpAffine(tall, turn, (width, height), flags=mode, borderMode=cv2.BORDER_REFLECT)
    )


def _tiles(rng: Rng, width: int, height: int) -> Picture:
    """Oblong tiles of similar colours (never square ones: squares are a class), at any angle."""
    tall = float(rng.uniform(6, 30))
    wide = tall * float(rng.uniform(1.9, 4.0))
    diagonal = float(np.hypot(width, height))
    rows, columns = int(diagonal / tall) + 1, int(diagonal / wide) + 1
    small = _grid(rng, rows, columns, rng.uniform(6, 24))
    angle = float(np.deg2rad(rng.uniform(0, 180)))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos * wide, -sin * tall, 0.0], [sin * wide, cos * tall, 0.0]])
    turn[:, 2] = (width / 2, height / 2) - turn[:, :2] @ np.array([columns / 2, rows / 2])
    return _u8(
        cv2.warpAffine(
            small, turn, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT
        )
    )


_GROUNDS: tuple[Callable[[Rng, int, int], Picture], ...] = (
    _gradient,
    _blobs,
    _clouds,
    _stripes,
    _tiles,
)


def background(rng: Rng, width: int, height: int) -> Picture:
    """One background, or two of them mixed."""
    picture = _GROUNDS[rng.integers(len(_GROUNDS))](rng, width, height)
    if rng.random() < 0.35:
        other = _GROUNDS[rng.integers(len(_GROUNDS))](rng, width, height)
        share = float(rng.uniform(0.3, 0.7))
        picture = _u8(cv2.addWeighted(picture, share, other, 1 - share, 0))
    return np.ascontiguousarray(picture)


def _line(rng: Rng, picture: Picture, unit: float) -> None:
    height, width = picture.shape[:2]
    ends = rng.uniform(-0.1, 1.1, (2, 2)) * (width, height)
    (x1, y1), (x2, y2) = ends.astype(int).tolist()
    thickness = max(1, int(rng.uniform(1, 5) * unit))
    cv2.line(picture, (x1, y1), (x2, y2), colour(rng), thickness, cv2.LINE_AA)


def _blob(rng: Rng, picture: Picture, unit: float) -> None:
    """A lopsided smooth outline, three to six lobes, clearly no circle."""
    height, width = picture.shape[:2]
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    lobes = int(rng.integers(2, 5))
    radius = (
        1 + 0.35 * np.sin(lobes * angles + rng.uniform(0, 6)) + 0.2 * np.sin(angles * (lobes + 1))
    )
    radius *= rng.uniform(10, 70) * unit
    outline = np.stack(
        (radius * np.cos(angles) * rng.uniform(1.4, 2.2), radius * np.sin(angles)), 1
    )
    _polygon(picture, outline, rng, width, height)


def _bar(rng: Rng, picture: Picture, unit: float) -> None:
    """An oblong at least 2.5 times as long as wide."""
    height, width = picture.shape[:2]
    half = rng.uniform(3, 20) * unit
    long = half * rng.uniform(2.5, 7)
    outline = np.array([(-long, -half), (long, -half), (long, half), (-long, half)])
    _polygon(picture, outline, rng, width, height)


def _polygon(
    picture: Picture, outline: NDArray[np.float64], rng: Rng, width: int, height: int
) -> None:
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = outline @ turn.T + rng.uniform(0, 1, 2) * (width, height)
    cv2.fillPoly(picture, [np.round(points * 16).astype(np.int32)], colour(rng), cv2.LINE_AA, 4)


def _scribble(rng: Rng, picture: Picture, unit: float) -> None:
    """Rows of short strokes, as a block of small print would look."""
    height, width = picture.shape[:2]
    size = float(rng.uniform(5, 14)) * unit
    x0, y0 = rng.uniform(0, 0.9, 2) * (width, height)
    ink = colour(rng)
    rows, columns = int(rng.integers(1, 5)), int(rng.integers(4, 16))
    corners = np.stack(np.meshgrid(np.arange(columns) * 0.8, np.arange(rows) * 1.6), 2).reshape(
        -1, 1, 2
    )
    strokes = (corners + rng.uniform(0, 0.9, (rows * columns, 3, 2)) * (0.7, 1.0)) * size + (x0, y0)
    cv2.polylines(
        picture, list(np.round(strokes * 16).astype(np.int32)), False, ink, 1, cv2.LINE_AA, 4
    )


_CLUTTER = (_line, _line, _blob, _bar, _scribble)


def clutter(rng: Rng, picture: Picture, unit: float) -> None:
    """Draw up to eight things of no class into ``picture``; ``unit`` scales their size."""
    for _ in range(int(rng.integers(0, 9))):
        _CLUTTER[rng.integers(len(_CLUTTER))](rng, picture, unit)


def scratches(rng: Rng, picture: Picture) -> None:
    """In one picture of four, one to three thin lines over everything."""
    if rng.random() < 0.25:
        for _ in range(int(rng.integers(1, 4))):
            _line(rng, picture, 0.4)


def camera(rng: Rng, picture: Picture) -> Picture:
    """Uneven light, blur, sensor noise and JPEG compression, each in a share of the pictures."""
    height, width = picture.shape[:2]
    if rng.random() < 0.5:
        light = _u8(rng.uniform(70, 140, (2, 2)))
        field = cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
        picture = _u8(cv2.multiply(picture, cv2.cvtColor(field, cv2.COLOR_GRAY2RGB), scale=1 / 128))
    if rng.random() < 0.3:
        picture = _u8(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 1.2))))
    if rng.random() < 0.5:
        picture = _add_noise(rng, picture, float(rng.uniform(2, 14)))
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
        picture = _u8(cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR))
    return picture


def _add_noise(rng: Rng, picture: Picture, sigma: float) -> Picture:
    """Gaussian noise of ``sigma`` levels."""
    height, width = picture.shape[:2]
    noise = _noise(rng, width, height)
    levels = (np.arange(256) - 128) * sigma / 40
    lighter = cv2.LUT(noise, _u8(np.round(np.maximum(levels, 0))))
    darker = cv2.LUT(noise, _u8(np.round(np.maximum(-levels, 0))))
    return _u8(cv2.subtract(cv2.add(picture, lighter), darker))
