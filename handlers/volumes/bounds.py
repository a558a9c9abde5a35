"""How much a worker takes: memory limits, and reading that never unpacks more than was claimed."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import BadInput, TooLarge

Buffer = bytes | bytearray | memoryview

LIMIT_VARIABLE = "KIT_VOLUME_MEMORY_MB"
"""Environment variable with the MiB that the volumes of one worker may take."""

MAX_INFLATION = 1032
"""Bytes that one byte of deflated data can hold at most (zlib's technical details)."""

BLOCK = 1 << 18


def machine_memory() -> int:
    """Bytes of memory of this machine, or of its container where that has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            total = min(total, int((Path("/sys/fs/cgroup") / name).read_text()))
        except (OSError, ValueError):  # no container, or no limit ("max")
            continue
    return total


def memory_limit() -> int:
    """Bytes that the volumes of this worker may take: as the server set it, else half of all."""
    text = os.environ.get(LIMIT_VARIABLE, "")
    return int(text) << 20 if text.isdigit() else machine_memory() // 2


def mib(size: int) -> str:
    """Bytes as a message has them."""
    return f"{size / (1 << 20):,.1f} MiB"


def require(needed: int, limit: int, what: str) -> None:
    """Raises ``TooLarge``, with both figures, where more is needed than may be taken."""
    if needed > limit:
        raise TooLarge(
            f"{what} needs {mib(needed)} of memory; the limit of this worker is {mib(limit)}"
        )


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
        self._tail: Buffer = b""
        self._z = zlib.decompressobj(47)

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
                raise BadInput(
                    f"the {self._what} is truncated: {filled:,} of {len(view):,} bytes came"
                )
            view[filled : filled + len(part)] = part
            filled += len(part)

    def claim(self, size: int) -> None:
        """Checks that ``size`` more bytes can be there at all, before memory is taken for them."""
        left = len(self._data) - self._at + len(self._tail)
        most = left * (MAX_INFLATION if self._packed else 1) + BLOCK * self._packed
        if size > most:
            raise BadInput(
                f"the {self._what}'s header claims {size:,} bytes of voxels, but the {left:,} "
                f"bytes that came hold {most:,} at most: truncated, or the header lies"
            )

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
                part = self._z.decompress(self._tail, most)
            except zlib.error as e:
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
        self._z = zlib.decompressobj(47)
        return True


def is_gzip(data: Buffer) -> bool:
    return bytes(data[:2]) == b"\x1f\x8b"
