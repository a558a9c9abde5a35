"""Where a picture lies in the model's input, in every mode, on the CPU and as a GPU does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from handlers import boxes, images
from handlers.gpu import pictures
from handlers.letterbox import MODES, Letterbox, placed

SIZES = [(64, 128), (128, 64), (96, 96), (37, 90)]


def scene(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.stack((x * 2 % 256, y * 2 % 256, (x + y) % 256), 2).astype(np.uint8)


@pytest.mark.parametrize(
    ("mode", "lies"),
    [
        ("letterbox", Letterbox(0.5, 0.5, 0, 16)),
        ("corner", Letterbox(0.5, 0.5, 0, 0)),
        ("stretch", Letterbox(0.5, 1.0, 0, 0)),
    ],
)
def test_each_mode_has_its_place(mode: str, lies: Letterbox) -> None:
    place, height, width = placed((64, 128), (64, 64), mode)
    assert place == lies
    assert (height, width) == ((64, 64) if mode == "stretch" else (32, 64))
    fitted, found = images.letterbox(scene(64, 128), 64, 64, mode=mode)
    assert found == lies
    grey = (fitted == images.PADDING).all(2).all(1)
    rows = {"letterbox": [*range(16), *range(48, 64)], "corner": [*range(32, 64)], "stretch": []}
    assert np.flatnonzero(grey).tolist() == rows[mode]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_boxes_come_back_to_the_picture(size: tuple[int, int], mode: str) -> None:
    (height, width), place = size, placed(size, (64, 96), mode)[0]
    box = np.array([[3, 5, width - 7, height - 2]], np.float32)
    scale = np.array([place.scale_x, place.scale_y] * 2)
    inside = box * scale + np.array([place.left, place.top] * 2)
    assert (inside >= -1e-3).all()
    assert (inside[:, [2, 3]] <= [96 + 1e-3, 64 + 1e-3]).all()
    rows = np.concatenate((inside, [[0.9, 1]]), 1).astype(np.float32)
    found = boxes.to_picture(rows, place, width, height)
    np.testing.assert_allclose(found[:, :4], box, atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_a_gpu_fits_it_in_as_the_cpu_does(size: tuple[int, int], mode: str) -> None:
    picture = scene(*size)
    want, place = images.letterbox(picture, 64, 96, mode=mode)
    target = torch.zeros(1, 3, 64, 96)
    (found,) = pictures.letterbox(
        [torch.from_numpy(picture).permute(2, 0, 1)], target, [size], mode
    )
    assert found == place
    have = target[0].permute(1, 2, 0).numpy() * 255
    border = (want == images.PADDING).all(2)
    np.testing.assert_allclose(have[border], images.PADDING, atol=1e-3)
    assert np.abs(have - want).mean() < 12  # down-scaling averages on a GPU


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match="resize mode 'fill'; known: letterbox, corner, stretch"):
        placed((4, 4), (4, 4), "fill")
