"""Rectangles of a map of text."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from handlers.boxes import nms
from handlers.heads.dbnet import DBNet

HEAD = DBNet(classes=1, extras=5)


def text(*rectangles: tuple[float, float, float, float, float]) -> NDArray[np.float32]:
    """A map ``[1, 96, 128]`` whose text, centre, size and degrees, is likely by 0.9."""
    likely = np.full((96, 128), 0.05, np.float32)
    for x, y, width, height, degrees in rectangles:
        outline = cv2.boxPoints(((x, y), (width, height), degrees))
        cv2.fillPoly(likely, [np.round(outline).astype(np.int32)], 0.9)
    return likely[None]


def found(*maps: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [nms(rows, HEAD, 0.6, None, 300) for rows in HEAD.boxes([np.stack(maps)])]


def test_an_island_grows_by_its_area_over_its_outline() -> None:
    likely = np.full((1, 96, 128), 0.05, np.float32)
    likely[0, 30:40, 20:60] = 0.9
    (rows,) = found(likely)
    grown = 1.5 * 39 * 9 / (2 * (39 + 9))
    size = (39 + 2 * grown, 9 + 2 * grown)
    np.testing.assert_allclose(rows[0, 6:], (39.5, 34.5, *size, 0), atol=1e-3)
    half = np.array(size) / 2
    edges = (39.5 - half[0], 34.5 - half[1], 39.5 + half[0], 34.5 + half[1], 0.9, 0)
    np.testing.assert_allclose(rows[0, :6], edges, atol=1e-3)


@pytest.mark.parametrize("degrees", [-40, -15, 15, 40])
def test_the_width_is_the_side_nearer_to_the_x_axis(degrees: float) -> None:
    for width, height in ((60, 12), (12, 60)):
        (rows,) = found(text((64, 48, width, height, degrees)))
        x, y, wide, high, angle = rows[0, 6:]
        assert (x, y) == pytest.approx((64, 48), abs=1)
        assert np.degrees(angle) == pytest.approx(degrees, abs=2)
        assert (wide > high) == (width > height)


def test_pictures_have_their_own_numbers_of_rectangles() -> None:
    first, second, none = found(
        text((30, 20, 40, 10, 0), (70, 70, 50, 14, 20)), text((64, 48, 30, 9, 0)), text()
    )
    assert [len(rows) for rows in (first, second, none)] == [2, 1, 0]


def test_what_is_small_or_unlikely_is_no_text() -> None:
    speck = text()
    speck[0, 10:13, 10:60] = 0.9  # two pixels between its rows
    faint = np.where(text((64, 48, 40, 12, 0)) > 0.5, np.float32(0.5), np.float32(0.05))
    assert [len(rows) for rows in found(speck, faint)] == [0, 0]
    assert len(nms(HEAD.boxes([faint[None]])[0], HEAD, 0.4, None, 300)) == 1
