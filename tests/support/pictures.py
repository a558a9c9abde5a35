"""Pictures as request bodies, whole and odd."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

from tests.support.bench import GOOD


def saved(kind: str, side: int = 640, **options: Any) -> bytes:
    """The good picture in another format."""
    out = io.BytesIO()
    Image.open(io.BytesIO(GOOD)).convert("RGB").resize((side, side)).save(out, kind, **options)
    return out.getvalue()


def claims(width: int, height: int) -> bytes:
    """A PNG of a few dozen bytes whose header claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
