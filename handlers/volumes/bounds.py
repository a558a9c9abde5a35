"""Reading that never unpacks more than was claimed."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import BadInput

Buffer = bytes | bytearray | memoryview

MAX_INFLATION = 1032
"""Bytes that one byte of deflated data can hold at most (zlib's technical details)."""

BLOCK = 1 << 18


def _inflater() -> tuple[Any, Any]:
    """ISA-L's, where it is installed: the same bytes in half the time; else zlib's."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.decompressobj, zlib.error
    return isal_zlib.decompressobj, isal_zlib.error


INFLATER, DAMAGED = _inflater()


class Stream:
    """Reads the bytes of a file in order, unpacking gzip or zlib, never more than asked for.

    Args:
        data: the file.
        what: its name in messages.
        packed: whether it is gzip or zlib; several gzip members in a row are one stream.
    """

    def __init__(self, data: Buffer, what: str, packed: bool):
        self._data = memoryview(data)
        self._what = what
        self._packed = packed
        self._at = 0
        self._given = self._claimed = 0
        self._tail: Buffer = b""
        self._z = INFLATER(47)

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes; raises ``BadInput`` where fewer are left."""
        out = np.empty(size, np.uint8)
        self.read_into(out)
        return out.tobytes()

    def read_into(self, out: NDArray[Any]) -> None:
        """Fills a contiguous array.

        Raises:
            BadInput: the file ends before, or its compressed data is damaged.
        """
        view = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        filled = 0
        while filled < len(view):
            part = self._some(min(len(view) - filled, BLOCK))
            if not part:
                came, most = self._given + filled, max(self._claimed, self._given + len(view))
                raise BadInput(f"the {self._what} is truncated: {came:,} of {most:,} bytes came")
            view[filled : filled + len(part)] = part
            filled += len(part)
        self._given += len(view)

    def claim(self, size: int) -> None:
        """Checks that ``size`` more bytes can be there at all, before memory is taken for them."""
        left = len(self._data) - self._at + len(self._tail)
        most = left * (MAX_INFLATION if self._packed else 1) + BLOCK * self._packed
        if size > most:
            raise BadInput(
                f"the {self._what}'s header claims {size:,} bytes of voxels, but the {left:,} "
                f"bytes that came hold {most:,} at most: truncated, or the header lies"
            )
        self._claimed = self._given + size

    def finish(self) -> None:
        """Checks that nothing follows, and the checksum of compressed data.

        Raises:
            BadInput: more data than the header claims, or the end is missing.
        """
        if self._some(1):
            raise BadInput(
                f"the {self._what} holds more data than its header claims: the header lies"
            )
        if self._packed and not self._z.eof:
            raise BadInput(f"the {self._what} is truncated: its compressed data has no end")

    def _some(self, most: int) -> Buffer:
        if not self._packed:
            plain = self._data[self._at : self._at + most]
            self._at += len(plain)
            return plain
        while True:
            if self._z.eof and not self._next_member():
                return b""
            if not self._tail:
                self._tail = self._data[self._at : self._at + BLOCK]
                self._at += len(self._tail)
            empty = not self._tail
            try:
                part: bytes = self._z.decompress(self._tail, most)
            except DAMAGED as e:
                raise BadInput(f"the {self._what}'s compressed data is damaged ({e})") from None
            self._tail = self._z.unused_data if self._z.eof else self._z.unconsumed_tail
            if part or (empty and not self._z.eof):
                return part

    def _next_member(self) -> bool:
        """Begins the next gzip member; whatever else follows the last one is padding."""
        if len(self._tail) < 2:
            more = self._data[self._at : self._at + BLOCK]
            self._at += len(more)
            self._tail = bytes(self._tail) + bytes(more)
        if bytes(self._tail[:2]) != b"\x1f\x8b":
            return False
        self._z = INFLATER(47)
        return True


def is_gzip(data: Buffer) -> bool:
    return bytes(data[:2]) == b"\x1f\x8b"
