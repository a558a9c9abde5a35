"""Rectangles at an angle: corners, overlap, likeness, and which of them are dropped."""

from __future__ import annotations

import math

import numpy as np
import pytest

from handlers import boxes, rectangles
from handlers.heads.rows import Oriented

SQUARE = [10.0, 20, 4, 4, 0]


def test_corners_go_round_clockwise() -> None:
    found = rectangles.corners(np.array([[10, 20, 4, 2, 0], [10, 20, 4, 2, math.pi / 2]]))
    np.testing.assert_allclose(found[0], [[8, 19], [12, 19], [12, 21], [8, 21]])
    np.testing.assert_allclose(found[1], [[11, 18], [11, 22], [9, 22], [9, 18]])


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (SQUARE, 16.0),
        ([10, 20, 4, 4, math.pi / 2], 16.0),
        ([12, 20, 4, 4, 0], 8.0),
        ([10, 20, 4, 4, math.pi / 4], 32 * (math.sqrt(2) - 1)),  # an octagon
        ([14, 20, 4, 4, 0], 0.0),
        ([90, 20, 4, 4, 1], 0.0),
    ],
)
def test_overlap_is_that_of_the_areas(other: list[float], shared: float) -> None:
    found = rectangles.overlap(np.array(SQUARE), np.array(other))
    assert found == pytest.approx(shared / (32 - shared), abs=1e-9)
    assert rectangles.overlap(np.array(other), np.array(SQUARE)) == pytest.approx(found, abs=1e-9)


def test_rectangles_without_area_overlap_nothing() -> None:
    flat = np.array([10.0, 20, 0, 4, 0])
    assert rectangles.overlap(flat, flat) == 0
    assert np.isfinite(rectangles.likeness(flat[None], np.array([flat, SQUARE]))).all()


def test_likeness_is_one_less_the_hellinger_distance_of_two_normal_distributions() -> None:
    """By the overlap of the distributions' square roots, summed over a fine grid."""
    given = np.array([[0, 0, 6, 2, 0.4], [1, 0.5, 5, 3, -0.6]])
    axis = np.linspace(-20, 20, 801)
    x, y = np.meshgrid(axis, axis)
    densities = []
    for cx, cy, w, h, r in given:
        along = (x - cx) * math.cos(r) + (y - cy) * math.sin(r)
        across = (y - cy) * math.cos(r) - (x - cx) * math.sin(r)
        power = along**2 / (w**2 / 12) + across**2 / (h**2 / 12)
        densities.append(np.exp(-power / 2) / (2 * math.pi * w * h / 12))
    shared = np.sqrt(densities[0] * densities[1]).sum() * (axis[1] - axis[0]) ** 2
    found = rectangles.likeness(given, given)
    assert found[0, 1] == pytest.approx(1 - math.sqrt(1 - shared), abs=1e-6)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-6)


def test_a_dropped_rectangle_drops_others_too_but_none_of_another_class() -> None:
    """A chain: the second is alike to the first, the third to the second alone."""
    chain = np.array([[10.0 + i, 20, 8, 3, 0.3] for i in range(0, 4, 2)] + [[14.0, 20, 8, 3, 0.3]])
    alike = rectangles.likeness(chain, chain)
    threshold = (alike[0, 1] + alike[0, 2]) / 2
    assert alike[0, 2] < threshold < alike[1, 2]
    same, other = np.zeros(3), np.array([0, 1, 0])
    assert rectangles.distinct(chain, same, threshold, 9) == [0]
    assert rectangles.distinct(chain, other, threshold, 9) == [0, 1, 2]
    assert rectangles.distinct(chain, other, threshold, 2) == [0, 1]


def test_many_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    given = rng.random((90, 5)) * [40, 40, 12, 12, 3] + [0, 0, 2, 2, 0]
    classes = rng.integers(0, 2, 90)
    parts = rectangles.distinct(given, classes, 0.2, 90)
    monkeypatch.setattr(rectangles, "STEP", 90)
    assert 5 < len(parts) < 90
    assert parts == rectangles.distinct(given, classes, 0.2, 90)


def test_a_head_of_rectangles_is_suppressed_by_them() -> None:
    """Two that cross: their upright boxes are one and the same."""
    seen = ((0.6, 0.785), (0.9, -0.785), (0.7, -0.78))
    rows = np.array([[10, 10, 14, 14, s, 10, 10, 18, 2, r] for s, r in seen], np.float32)
    found = boxes.nms(rows, Oriented(classes=1, extras=5), 0.25, 0.7, 300)
    np.testing.assert_allclose(found[:, 4], [0.9, 0.6])
    np.testing.assert_allclose(found[:, 10], [-0.785, 0.785])
