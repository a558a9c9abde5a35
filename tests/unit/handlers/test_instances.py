"""Masks of instances: on the picture's own pixels, as run lengths, polygons and numbers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from handlers import instances
from handlers.errors import Unprocessable
from handlers.instances import Mask
from handlers.letterbox import placed


def discs(height: int, width: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[:height, :width] + 0.5
    far = (x - width * 0.4) ** 2 + (y - height * 0.5) ** 2
    return np.asarray(far < (min(height, width) * 0.3) ** 2)


@pytest.mark.parametrize("size", [(200, 320), (320, 200), (64, 64), (101, 57)])
@pytest.mark.parametrize("mode", ["letterbox", "corner", "stretch"])
def test_a_mask_lies_where_its_object_is(size: tuple[int, int], mode: str) -> None:
    place = placed(size, (64, 64), mode)[0]
    y, x = np.mgrid[:64, :64] + 0.5
    cx, cy = size[1] * 0.4 * place.scale_x + place.left, size[0] * 0.5 * place.scale_y + place.top
    r = min(size) * 0.3
    far = ((x - cx) / place.scale_x) ** 2 + ((y - cy) / place.scale_y) ** 2
    protos = np.stack((r - np.sqrt(far), np.zeros((64, 64)))).astype(np.float32)
    weights = np.array([1, 5], np.float32)
    box = np.array([0, 0, size[1], size[0]], np.float32)
    found = instances.mask(box, weights, protos, place, (1.0, 1.0), size)
    want = discs(*size)
    assert found.inside.shape == want.shape
    overlap = (found.inside & want).sum() / (found.inside | want).sum()
    assert overlap > 0.97


def test_a_mask_ends_at_its_box_and_at_the_picture() -> None:
    protos, place = np.ones((1, 16, 16), np.float32), placed((64, 64), (64, 64))[0]
    box = np.array([10.2, 20, 30, 90], np.float32)
    found = instances.mask(box, np.ones(1, np.float32), protos, place, (0.25, 0.25), (64, 64))
    assert (found.left, found.top, found.inside.shape) == (11, 20, (44, 19))
    assert found.inside.all()
    nothing = np.array([70, 70, 80, 80], np.float32)
    found = instances.mask(nothing, np.ones(1, np.float32), protos, place, (0.25, 0.25), (64, 64))
    assert found.inside.size == 0
    assert instances.polygons(found) == []


def test_run_lengths_go_down_the_columns_and_begin_outside() -> None:
    inside = np.array([[1, 0], [1, 1]], bool)
    assert instances.run_lengths(Mask(1, 0, inside), 3, 3) == [3, 2, 2, 1, 1]
    assert instances.run_lengths(Mask(0, 0, inside), 2, 2) == [0, 2, 1, 1]
    assert instances.run_lengths(Mask(0, 0, np.zeros((0, 0), bool)), 2, 3) == [6]


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_say_every_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inside = rng.random((7, 5)) < 0.5
    counts = instances.run_lengths(Mask(2, 1, inside), 10, 9)
    flat = np.repeat(np.arange(len(counts)) % 2, counts).astype(bool)
    whole = np.zeros((10, 9), bool)
    whole[1:8, 2:7] = inside
    np.testing.assert_array_equal(flat.reshape(9, 10).T, whole)


def test_polygons_fill_the_mask_again() -> None:
    one = Mask(3, 4, discs(40, 50))
    drawn = np.zeros((60, 60), np.uint8)
    for outline in instances.polygons(one):
        cv2.fillPoly(drawn, [np.reshape(outline, (-1, 2)).astype(np.int32)], 1)
    np.testing.assert_array_equal(drawn[4:44, 3:53].astype(bool), one.inside)


def test_the_more_confident_lies_over_the_others() -> None:
    masks = [Mask(0, 0, np.ones((2, 2), bool)), Mask(1, 1, np.ones((2, 2), bool))]
    assert instances.numbered(masks, 3, 3).tolist() == [[1, 1, 0], [1, 1, 2], [0, 2, 2]]
    with pytest.raises(Unprocessable, match="70,000 instances; a PNG numbers 65,535"):
        instances.numbered([masks[0]] * 70_000, 3, 3)
