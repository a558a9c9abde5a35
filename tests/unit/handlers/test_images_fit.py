"""JPEGs decoded no larger than the model needs: the same geometry, the same refusals."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from handlers import images
from handlers.errors import BadInput


def saved(pixels: object, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def photograph(height: int, width: int, orientation: int = 1) -> bytes:
    """A JPEG with smooth content, as the camera stored it."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    planes = (255 * x / width, 255 * y / height, 127 + 100 * np.sin(x / 40) * np.cos(y / 30))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.stack(planes, axis=2).astype(np.uint8)
    return saved(pixels, quality=95, exif=exif.tobytes())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(700, 1300), (1280, 1279), (1279, 1280), (64, 64), (300, 2000)])
def test_a_picture_decoded_to_fit_keeps_its_own_size(
    size: tuple[int, int], orientation: int
) -> None:
    data = photograph(*size, orientation)
    whole = images.decode(data)
    found = images.decode_to_fit(data, (160, 160))
    assert (found.height, found.width) == whole.shape[:2]
    fitted, place = images.letterbox(found.pixels, 160, 160, size=(found.height, found.width))
    expected, expected_place = images.letterbox(whole, 160, 160)
    assert place == expected_place
    assert np.abs(fitted.astype(int) - expected.astype(int)).mean() < 2
    scale = min(160 / found.height, 160 / found.width, 1)
    assert found.pixels.shape[0] >= int(found.height * scale)
    assert found.pixels.shape[1] >= int(found.width * scale)
    assert found.pixels.shape[0] < 2 * 160 * 2 or min(size) * scale < 80


@pytest.mark.parametrize("progressive", [False, True])
@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_a_truncated_picture_decoded_to_fit_never_gives_pixels(
    progressive: bool, share: float
) -> None:
    data = TALL[progressive]
    with pytest.raises(BadInput):
        images.decode_to_fit(data[: int(len(data) * share)], (64, 64))


NOISE = np.random.default_rng(3).integers(0, 256, (400, 300, 3), np.uint8)
TALL = {p: saved(NOISE, quality=80, progressive=p) for p in (False, True)}


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_other_jpegs_decoded_to_fit(mode: str) -> None:
    flat = Image.new("RGB", (900, 700), (200, 90, 30)).convert(mode)
    found = images.decode_to_fit(saved(flat, quality=95), (64, 64))
    assert (found.height, found.width, found.pixels.shape[2]) == (700, 900, 3)
    expected = np.asarray(flat.convert("RGB"))[0, 0].astype(int)
    assert np.abs(found.pixels.astype(int) - expected).max() <= 6
