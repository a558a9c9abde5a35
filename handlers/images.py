"""From the bytes of a picture to the pixels that a detector or classifier takes."""

from __future__ import annotations

import io
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from handlers.errors import BadInput, TooLarge, UnsupportedFormat
from handlers.letterbox import Letterbox, placed
from handlers.parameters import Limits

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""The formats that are decoded; every other one is refused."""

MAX_PIXELS = 50_000_000
"""Largest picture that is decoded: 150 MB as RGB."""

PADDING = 114
"""Grey value around a letterboxed picture, as detectors are trained with."""

OTHER_FORMATS = {
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "EPS",
    b"GIF8": "GIF",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xm": "XML or SVG",
    b"<!DO": "HTML",
    b"<htm": "HTML",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x00\x00\x01\x00": "ICO",
    b"\x00\x00\x00\x0cjP": "JPEG 2000",
}

END_OF_IMAGE = b"\xff\xd9"
"""A whole JPEG's last two bytes."""

END_OF_PNG = b"IEND\xaeB`\x82"
"""A whole PNG's last chunk: its name and checksum. Pillow gives pixels without it."""

Image.MAX_IMAGE_PIXELS = None  # this module's own limit answers with a status instead of a warning


class Picture(NamedTuple):
    """A decoded picture.

    Attributes:
        pixels: ``[h, w, 3]`` uint8 RGB, possibly smaller than the picture itself.
        height, width: the picture's own size, upright.
    """

    pixels: NDArray[np.uint8]
    height: int
    width: int


class Item(NamedTuple):
    """One request's picture.

    Attributes:
        height, width: the picture's own size, upright.
        picture: decoded as large as the model needs it; None where the GPU decodes it.
        data: the file's bytes.
        limits: the request's own; None for the packed ones.
    """

    height: int
    width: int
    picture: Picture | None
    data: bytes
    limits: Limits | None = None


class Header(NamedTuple):
    """What a picture's header says.

    Attributes:
        height, width: the picture's own size, upright.
        plain_jpeg: whether nvJPEG gives the same picture as the decoder here: a whole baseline or
            progressive JPEG of three 8-bit channels in YCbCr, stored upright.
    """

    height: int
    width: int
    plain_jpeg: bool


def peek(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Reads a picture's header only.

    Raises:
        UnsupportedFormat, BadInput, TooLarge: as ``decode_to_fit``; what a header does not show
            (damaged pixels) is left to whoever decodes.
    """
    picture = _checked(data, max_pixels)
    width, height = picture.size
    orientation = _orientation(picture)
    turned = orientation in range(5, 9)
    plain = (
        picture.format == "JPEG"
        and picture.mode == "RGB"
        and "adobe" not in picture.info
        and orientation == 1
        and data.rstrip(b"\0")[-2:] == END_OF_IMAGE
    )
    return Header(*((width, height) if turned else (height, width)), plain)


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """All pixels of a JPEG, PNG, WebP or BMP; as ``decode_to_fit``, at full size."""
    return decode_to_fit(data, None, max_pixels).pixels


def decode_to_fit(
    data: bytes,
    fit: tuple[int, int] | None,
    max_pixels: int = MAX_PIXELS,
    cover: bool = False,
) -> Picture:
    """Decodes a JPEG, PNG, WebP or BMP, turned upright as its EXIF orientation says.

    Args:
        fit: height and width that the picture will be letterboxed into. A JPEG that is at least
            twice as large is decoded at 1/2, 1/4 or 1/8 of its size, never below what fits: libjpeg
            then averages blocks of pixels instead of computing each (its scaled inverse DCT). None
            decodes at full size.
        cover: the picture will cover ``fit``, cut where it reaches beyond, instead of fitting in.

    Returns:
        The pixels, RGB, and the picture's own size. Transparency is dropped, 16-bit grey keeps its
        upper 8 bits.

    Raises:
        UnsupportedFormat: a known format that is not on the allow-list.
        BadInput: no picture, or a truncated one.
        TooLarge: the header claims more than ``max_pixels`` (checked before pixels are allocated).
    """
    picture = _checked(data, max_pixels)
    width, height = picture.size
    if picture.format == "PNG" and END_OF_PNG not in data:
        raise BadInput("the PNG is damaged or truncated (its last chunk, IEND, is missing)")
    if fit is not None and picture.format == "JPEG":
        pick = max if cover else min
        reach = pick(fit[0] / height, fit[1] / width), pick(fit[0] / width, fit[1] / height)
        scale = max(reach)  # whichever way its orientation turns it
        picture.draft("RGB", (math.ceil(width * scale), math.ceil(height * scale)))
    try:
        picture.load()
    except MemoryError:
        raise TooLarge(f"no memory for the {width}x{height} pixels of the picture") from None
    except Exception as e:  # decoders raise many types for damaged data
        raise BadInput(f"the {picture.format} is damaged or truncated ({_first_line(e)})") from None
    upright, turned = _upright(picture)
    return Picture(_rgb(upright), *((width, height) if turned else (height, width)))


def letterbox(
    image: NDArray[np.uint8],
    height: int,
    width: int,
    size: tuple[int, int] | None = None,
    mode: str = "letterbox",
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Scales a picture to fit ``height`` x ``width``, on grey.

    Args:
        image: ``[h, w, 3]`` uint8.
        size: the picture's own height and width, where ``image`` was decoded smaller.
        mode: one of ``MODES``.

    Returns:
        ``[height, width, 3]`` uint8, and where the picture's own pixels lie in it.
    """
    h, w = size or image.shape[:2]
    place, new_h, new_w = placed((h, w), (height, width), mode)
    if (new_h, new_w) != image.shape[:2]:
        image = np.asarray(cv2.resize(image, (new_w, new_h)), np.uint8)
    canvas = np.full((height, width, 3), PADDING, np.uint8)
    left, top = place.left, place.top
    canvas[top : top + new_h, left : left + new_w] = image
    return canvas, place


def encode_jpeg(image: NDArray[np.uint8], quality: int = 90) -> bytes:
    """JPEG file of ``[H, W, 3]`` uint8 RGB."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality)
    return out.getvalue()


def encode_png(image: NDArray[Any]) -> bytes:
    """PNG file of ``[H, W]`` uint8 or uint16."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def reduction(height: int, width: int, new_height: int, new_width: int) -> int:
    """The block (1, 2, 4 or 8 pixels) that a picture is averaged over before it is scaled down.

    As libjpeg's scaled decoding, which ``decode_to_fit`` asks for: never below what is needed.
    """
    fits = (b for b in (8, 4, 2) if height >= b * new_height and width >= b * new_width)
    return next(fits, 1)


def _checked(data: bytes, max_pixels: int) -> Image.Image:
    picture = _open(data)
    width, height = picture.size
    if width * height > max_pixels:
        raise TooLarge(
            f"the {picture.format} claims {width}x{height} = {width * height:,} pixels; "
            f"at most {max_pixels:,} are decoded"
        )
    return picture


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation) or 1)
    except Exception:  # broken EXIF data is no reason to refuse good pixels
        return 1


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadInput("an empty picture: 0 bytes came")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as e:  # header parsers raise many types for damaged data
        head = data.lstrip()[:8]
        for magic, name in OTHER_FORMATS.items():
            if head.startswith(magic):
                raise UnsupportedFormat(f"{name} came; expected {', '.join(FORMATS)}") from None
        if data[4:8] == b"ftyp":
            raise UnsupportedFormat(
                f"HEIC, AVIF or MP4 came; expected {', '.join(FORMATS)}"
            ) from None
        reason = "" if isinstance(e, UnidentifiedImageError) else f" ({_first_line(e)})"
        raise BadInput(
            f"{len(data)} bytes that are no picture{reason}; expected {', '.join(FORMATS)}"
        ) from None


def _upright(picture: Image.Image) -> tuple[Image.Image, bool]:
    """The picture as it is shown, and whether its height and width were exchanged for that."""
    try:
        turned = picture.getexif().get(ExifTags.Base.Orientation) in range(5, 9)
        return ImageOps.exif_transpose(picture), turned
    except Exception:  # broken EXIF data is no reason to refuse good pixels
        return picture, False


def _rgb(picture: Image.Image) -> NDArray[np.uint8]:
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.ascontiguousarray(picture.convert("RGB"))


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
