"""Which pictures are left to the GPU's decoder, and how far a picture is averaged down."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers import images
from handlers.errors import BadInput, TooLarge, UnsupportedFormat


def picture(mode: str = "RGB", kind: str = "JPEG", **options: Any) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 64, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def turned(how: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = how
    return picture(exif=exif)


@pytest.mark.parametrize("data", [picture(), picture(progressive=True), picture(subsampling=0)])
def test_plain_jpegs_are_left_to_the_gpu(data: bytes) -> None:
    assert images.peek(data) == images.Header(40, 64, True)
    assert images.peek(data + b"\0\0\0").plain_jpeg


@pytest.mark.parametrize(
    "data",
    [picture("CMYK"), picture("L"), picture(kind="PNG"), picture()[:-2], picture()[:-40]],
    ids=["CMYK", "grey", "PNG", "no end", "truncated"],
)
def test_the_others_are_not(data: bytes) -> None:
    assert images.peek(data) == images.Header(40, 64, False)


@pytest.mark.parametrize("how", range(2, 9))
def test_turned_ones_are_not_and_have_their_upright_size(how: int) -> None:
    head = images.peek(turned(how))
    size = (64, 40) if how >= 5 else (40, 64)
    assert (head.height, head.width, head.plain_jpeg) == (*size, False)
    whole = images.decode_to_fit(turned(how), None)
    assert (whole.height, whole.width) == size


def test_what_no_decoder_takes_is_refused_by_its_header() -> None:
    with pytest.raises(BadInput):
        images.peek(b"")
    with pytest.raises(UnsupportedFormat):
        images.peek(b"II*\x00 and so on")
    with pytest.raises(TooLarge):
        images.peek(picture(), max_pixels=40 * 64 - 1)


@pytest.mark.parametrize(
    ("size", "new", "block"),
    [
        ((640, 640), (640, 640), 1),
        ((1279, 1279), (640, 640), 1),
        ((1280, 1280), (640, 640), 2),
        ((1280, 1279), (640, 640), 1),
        ((2560, 2560), (640, 640), 4),
        ((9000, 9000), (640, 640), 8),
        ((100, 100), (640, 640), 1),
    ],
)
def test_the_average_never_goes_below_what_is_needed(
    size: tuple[int, int], new: tuple[int, int], block: int
) -> None:
    assert images.reduction(*size, *new) == block
