"""Bytes of pictures: which are decoded, which are refused, and with which words."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from handlers import images
from handlers.errors import BadInput, ItemError, TooLarge, UnsupportedFormat

Pixels = NDArray[np.uint8]


def scene(height: int = 60, width: int = 80) -> Pixels:
    """A picture whose four corners differ, with detail everywhere, so that a cut shows."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(3).integers(0, 40, (height, width))
    planes = (x * 200 // width + noise, y * 200 // height + noise, (x + y) % 200 + noise)
    return np.stack(planes, axis=2).astype(np.uint8)


def saved(picture: Image.Image | Pixels, kind: str, **options: object) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG by hand, so that its header can claim anything."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + packed + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_come_back_exactly(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    found = images.decode(saved(scene(), kind, **options))
    np.testing.assert_array_equal(found, scene())
    assert found.dtype.name == "uint8"
    assert found.flags.c_contiguous


def test_jpeg_comes_back_nearly() -> None:
    flat = np.full((32, 48, 3), (200, 90, 30), np.uint8)
    np.testing.assert_allclose(images.decode(saved(flat, "JPEG", quality=95)), flat, atol=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    shown = scene()
    stored = {  # what the camera stored, so that the orientation turns it into what is shown
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: np.rot90(shown, 1),
        7: shown[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(np.ascontiguousarray(stored), "PNG", exif=exif.tobytes())
    np.testing.assert_array_equal(images.decode(data), shown)


def test_broken_exif_does_not_refuse_good_pixels() -> None:
    data = saved(scene(), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff\x00\x00")
    np.testing.assert_array_equal(images.decode(data), scene())


WHOLE = {
    "JPEG": saved(scene(), "JPEG", quality=90),
    "progressive JPEG": saved(scene(), "JPEG", quality=90, progressive=True),
    "PNG": saved(scene(), "PNG"),
    "WebP": saved(scene(), "WEBP", lossless=True),
    "BMP": saved(scene(), "BMP"),
}


@pytest.mark.parametrize("name", sorted(WHOLE))
@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=150, deadline=None)
def test_a_truncated_picture_never_gives_pixels(name: str, share: float) -> None:
    data = WHOLE[name]
    cut = int(len(data) * share)
    with pytest.raises(BadInput) as refused:
        images.decode(data[:cut])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("name", ["JPEG", "progressive JPEG", "PNG", "BMP"])
def test_the_last_bytes_count_too(name: str, missing: int) -> None:
    with pytest.raises(BadInput, match="truncated"):
        images.decode(WHOLE[name][:-missing])


def test_sixteen_bit_grey_keeps_its_upper_bits() -> None:
    grey = (np.arange(256 * 4, dtype=np.uint16).reshape(32, 32)) * 64
    found = images.decode(saved(Image.fromarray(grey), "PNG"))
    np.testing.assert_array_equal(found, np.repeat((grey >> 8)[:, :, None], 3, axis=2))


def test_other_modes_become_rgb() -> None:
    rgb = Image.fromarray(scene())
    palette = rgb.quantize(16)
    for stored, expected in (
        (palette, palette.convert("RGB")),
        (rgb.convert("L"), rgb.convert("L").convert("RGB")),
        (rgb.convert("1"), rgb.convert("1").convert("RGB")),
        (rgb.convert("LA"), rgb.convert("L").convert("RGB")),
    ):
        np.testing.assert_array_equal(images.decode(saved(stored, "PNG")), np.asarray(expected))


def test_transparency_is_dropped() -> None:
    alpha = np.dstack((scene(), np.full((60, 80), 7, np.uint8)))
    np.testing.assert_array_equal(images.decode(saved(alpha, "PNG")), scene())


def test_cmyk_jpeg_is_read() -> None:
    flat = Image.new("RGB", (40, 30), (200, 90, 30))
    found = images.decode(saved(flat.convert("CMYK"), "JPEG", quality=95))
    assert found.shape == (30, 40, 3)
    np.testing.assert_allclose(found, np.asarray(flat), atol=6)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (saved(scene(), "TIFF"), "TIFF"),
        (saved(scene(), "TIFF", compression="tiff_lzw"), "TIFF"),
        (saved(scene(), "GIF"), "GIF"),
        (saved(scene(), "EPS"), "PostScript"),
        (saved(scene(), "PDF"), "PDF"),
        (saved(scene(), "ICO"), "ICO"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\n  <?xml version='1.0'?><svg/>", "SVG"),
        (b"<!DOCTYPE html><html>404</html>", "HTML"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(20), "HEIC"),
        (b"\x1f\x8b\x08" + bytes(20), "gzip"),
    ],
)
def test_formats_off_the_list_are_named(data: bytes, named: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"{named}.* came; expected JPEG, PNG, WEBP, BMP"):
        images.decode(data)


def test_every_other_format_that_pillow_writes_is_refused() -> None:
    Image.init()
    tried = 0
    for kind in set(Image.SAVE) - set(images.FORMATS):
        for mode in ("RGB", "L", "1", "P"):
            try:
                data = saved(Image.fromarray(scene()).convert(mode), kind)
            except Exception:  # noqa: S112 - this writer does not take the mode or lacks a library
                continue
            if data[:2] in (b"\xff\xd8", b"\x89P", b"BM", b"RI"):
                continue  # one of the four under another name, such as MPO
            tried += 1
            with pytest.raises(ItemError):
                images.decode(data)
            break
    assert tried > 10


@pytest.mark.parametrize("data", [b"hello", bytes(100), b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_no_picture(data: bytes) -> None:
    with pytest.raises(BadInput, match=rf"{len(data)} bytes that are no picture.*expected JPEG"):
        images.decode(data)


def test_nothing() -> None:
    with pytest.raises(BadInput, match="0 bytes came"):
        images.decode(b"")


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM"]),
)
@settings(max_examples=200, deadline=None)
def test_garbage_is_an_item_error_in_one_line(data: bytes, head: bytes) -> None:
    with pytest.raises(ItemError) as caught:
        images.decode(head + data)
    assert "\n" not in str(caught.value)


def test_huge_claims_are_refused_before_pixels_are_allocated() -> None:
    """In a process that may not grow by a tenth of what the header claims."""
    code = (
        "import resource, sys\n"
        "from handlers import images\n"
        "from handlers.errors import TooLarge\n"
        "data = sys.stdin.buffer.read()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20),) * 2)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    images.decode(data)\n"
        "except TooLarge as e:\n"
        "    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    print(after - before, e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=png(60_000, 60_000), capture_output=True, check=True
    )
    grown, _, message = done.stdout.decode().partition(" ")
    assert int(grown) < 10_000, f"resident memory grew by {grown} KiB"
    assert message.strip() == (
        "the PNG claims 60000x60000 = 3,600,000,000 pixels; at most 50,000,000 are decoded"
    )


def test_the_bound_is_on_pixels_and_includes_its_own_value() -> None:
    data = saved(scene(), "PNG")
    assert images.decode(data, max_pixels=60 * 80).shape == (60, 80, 3)
    with pytest.raises(TooLarge, match=re.escape("80x60 = 4,800 pixels; at most 4,799")):
        images.decode(data, max_pixels=60 * 80 - 1)


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([(64, 64), (96, 160)]))
@settings(max_examples=60, deadline=None)
def test_letterbox_geometry(height: int, width: int, size: tuple[int, int]) -> None:
    picture = np.full((height, width, 3), 250, np.uint8)
    fitted, place = images.letterbox(picture, *size)
    assert fitted.shape == (*size, 3)
    rows, columns = np.nonzero((fitted != images.PADDING).any(2))
    inside = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    expected = (
        place.left,
        place.top,
        place.left + max(1, round(width * place.scale_x)),
        place.top + max(1, round(height * place.scale_y)),
    )
    assert inside == expected
    assert place.scale_x == place.scale_y == min(size[0] / height, size[1] / width)
    assert abs((size[1] - expected[2]) - place.left) <= 1
    assert abs((size[0] - expected[3]) - place.top) <= 1


def test_letterbox_of_the_right_size_changes_nothing() -> None:
    fitted, place = images.letterbox(scene(), 60, 80)
    np.testing.assert_array_equal(fitted, scene())
    assert place == (1.0, 1.0, 0, 0)


def test_encoded_jpeg_is_the_same_picture() -> None:
    flat = np.full((30, 50, 3), (10, 200, 60), np.uint8)
    np.testing.assert_allclose(images.decode(images.encode_jpeg(flat)), flat, atol=6)
