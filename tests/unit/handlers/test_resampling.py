"""Resampling against scipy's own zoom, which is what nnU-Net's resize comes down to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from handlers import resampling
from handlers.resampling import Grids
from tests.support.segmenting import resize

ONE = (1.0, 1.0, 1.0)
VOLUME = np.random.default_rng(3).normal(0, 100, (20, 31, 27)).astype(np.float32)


def both(shape: tuple[int, int, int], order: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both ways: as the data is resampled, and as the logits are, plane by plane."""
    grids = Grids(VOLUME.shape, shape, ONE, ONE, "nnunet")
    whole = resampling.resample(VOLUME, grids, order, 0, None)
    if order > 1:
        return whole, whole
    axes = resampling.blends(grids, order, 0, None)
    planes = iter(np.stack([VOLUME, -VOLUME], axis=1))
    within: Callable[[Any, Any], Any] = resampling.blend_plane
    stack = np.stack(list(resampling.blend_planes(planes, axes, within)), axis=1)
    np.testing.assert_array_equal(stack[0], -stack[1])
    return whole, stack[0]


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("shape", [(33, 25, 40), (13, 50, 27), (20, 31, 50), (1, 200, 3)])
def test_all_axes_at_once(shape: tuple[int, int, int], order: int) -> None:
    expected = resize(VOLUME, shape, order)
    for found in both(shape, order):
        assert found.shape == shape
        np.testing.assert_allclose(found, expected, atol=3e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("order", [1, 3])
def test_a_coarse_axis_is_resampled_on_its_own(axis: int, order: int) -> None:
    """Each slice by itself, clipped by itself; then the nearest slice."""
    shape = (29, 40, 35)
    spacing = tuple(5.0 if i == axis else 1.0 for i in range(3))
    grids = Grids(VOLUME.shape, shape, spacing, ONE, "nnunet")
    slices = np.moveaxis(VOLUME, axis, 0)
    inner = tuple(n for i, n in enumerate(shape) if i != axis)
    resized = np.stack([resize(piece, inner, order) for piece in slices])
    step = len(slices) / shape[axis]
    at = step * (np.arange(shape[axis]) + 0.5) - 0.5
    grid = np.meshgrid(at, *(np.arange(n) for n in inner), indexing="ij")
    expected = np.moveaxis(ndimage.map_coordinates(resized, grid, order=0, mode="nearest"), 0, axis)
    found = resampling.resample(VOLUME, grids, order, 0, None)
    np.testing.assert_allclose(found, expected, atol=3e-4)
    if order == 1:
        blends = resampling.blends(grids, 1, 0, None)
        given = iter(VOLUME[:, None])
        blended = resampling.blend_planes(given, blends, resampling.blend_plane)
        planes = np.stack(list(blended), axis=1)
        np.testing.assert_allclose(planes[0], expected, atol=3e-4)


@pytest.mark.parametrize(
    ("before", "after", "forced", "expected"),
    [
        ((5, 1, 1), ONE, None, 0),
        ((3, 1, 1), ONE, None, None),
        (ONE, (1, 1, 4), None, 2),
        ((0.2, 1.25, 1.25), ONE, None, None),
        ((5, 1, 1), ONE, False, None),
        ((1, 2, 1), ONE, True, 1),
        (ONE, (5, 1, 1), True, None),
    ],
)
def test_which_axis_is_apart(
    before: tuple[float, ...], after: tuple[float, ...], forced: bool | None, expected: int | None
) -> None:
    assert resampling.apart(before, after, forced) == expected


def test_monai_keeps_the_first_voxel_in_place() -> None:
    ramp = np.broadcast_to(np.arange(11, dtype=np.float32)[:, None, None], (11, 3, 3))
    shape = resampling.new_shape((11, 3, 3), (2, 1, 1), (0.5, 1, 1), "monai")
    assert shape == (41, 3, 3)
    grids = Grids((11, 3, 3), shape, (2, 1, 1), (0.5, 1, 1), "monai")
    found = resampling.resample(ramp, grids, 1, 0, False)
    np.testing.assert_allclose(found[:, 0, 0], np.arange(41) / 4, atol=1e-6)
    back = resampling.resample(found, grids.back(), 1, 0, False)
    np.testing.assert_allclose(back, ramp, atol=1e-6)


def test_new_shapes_are_nnunets() -> None:
    assert resampling.new_shape((20, 31, 27), (5, 0.7, 0.7), (2.5, 1, 1), "nnunet") == (40, 22, 19)
    assert resampling.new_shape((1, 1, 1), ONE, (9, 9, 9), "nnunet") == (1, 1, 1)


def test_the_same_grid_is_left_alone() -> None:
    same = Grids(VOLUME.shape, VOLUME.shape, ONE, (2.0, 1.0, 1.0), "nnunet")
    assert resampling.resample(VOLUME, same, 3, 0, None) is VOLUME
    assert all(axis.same for axis in resampling.blends(same, 1, 0, None))


def test_logits_take_orders_0_and_1_only() -> None:
    with pytest.raises(ValueError, match="order 3"):
        resampling.blends(Grids(VOLUME.shape, (5, 5, 5), ONE, ONE, "nnunet"), 3, 0, None)
