"""JPEGs are decoded no larger than the model needs them, and their own size is kept."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from handlers import images


def jpeg(width: int, height: int, orientation: int = 1) -> bytes:
    """A smooth picture: red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack((x, y, np.full_like(x, 90)), 2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95, exif=exif)
    return out.getvalue()


@pytest.mark.parametrize(
    ("width", "height", "decoded"),
    [
        (1280, 720, (360, 640)),  # exactly twice as wide
        (1279, 720, (720, 1279)),  # a pixel less: at half it would not fill the input
        (2600, 1300, (325, 650)),  # a quarter
        (640, 640, (640, 640)),
        (100, 50, (50, 100)),
    ],
)
def test_never_below_what_fits(width: int, height: int, decoded: tuple[int, int]) -> None:
    found = images.decode_to_fit(jpeg(width, height), (640, 640))
    assert (found.height, found.width) == (height, width)
    assert found.pixels.shape[:2] == decoded


def test_a_picture_on_its_side_keeps_its_upright_size() -> None:
    found = images.decode_to_fit(jpeg(1280, 720, orientation=6), (640, 640))
    assert (found.height, found.width) == (1280, 720)
    assert found.pixels.shape == (640, 360, 3)
    whole = images.decode(jpeg(1280, 720, orientation=6))
    assert whole.shape == (1280, 720, 3)
    np.testing.assert_allclose(found.pixels.mean((0, 1)), whole.mean((0, 1)), atol=2)


@pytest.mark.parametrize("size", [(1280, 720), (1918, 1081), (3000, 2001)])
def test_the_letterboxed_picture_is_the_same(size: tuple[int, int]) -> None:
    data = jpeg(*size)
    small, whole = images.decode_to_fit(data, (640, 640)), images.decode(data)
    first, place = images.letterbox(small.pixels, 640, 640, (small.height, small.width))
    second, expected = images.letterbox(whole, 640, 640)
    assert place == expected
    assert np.abs(first.astype(int) - second.astype(int)).max() <= 8


def test_only_jpegs_are_decoded_smaller() -> None:
    out = io.BytesIO()
    Image.new("RGB", (1300, 1300), "red").save(out, "PNG")
    assert images.decode_to_fit(out.getvalue(), (640, 640)).pixels.shape == (1300, 1300, 3)
