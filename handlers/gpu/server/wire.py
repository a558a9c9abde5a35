"""What a worker and its GPU server exchange: JSON over a Unix socket, pictures in shared memory."""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

from handlers.boxes import CANDIDATES, COLUMNS

LENGTH = struct.Struct("!I")
MOST = 1 << 24
"""Bytes of the longest message: a batch of thousands of pictures stays far below."""

AT_ONCE = 1 << 16
"""Bytes that one call of the system reads: a batch of hundreds of pictures."""


def slot_bytes(settings: Mapping[str, Any]) -> int:
    """Bytes of the largest answer for one picture; the answers lie before the pictures."""
    return max(CANDIDATES, int(settings["max_detections"])) * COLUMNS * 4


class Gone(Exception):
    """The other side has closed the connection, or what comes is not its protocol."""


class Late(Gone):
    """The other side did not answer in time."""


class Arena:
    """Memory that a worker and its GPU server both see.

    Args:
        fd: of a file in memory; it is closed here, also where this fails.
        size: bytes.

    Attributes:
        view: the bytes, writable.
    """

    def __init__(self, fd: int, size: int):
        self.size = size
        try:
            if size < 0:
                raise ValueError("no size")
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self.view = memoryview(self._map)


def file_in_memory(size: int) -> int:
    """A file descriptor of ``size`` bytes of zeros, for an ``Arena`` on both sides."""
    fd = os.memfd_create("pictures")
    os.ftruncate(fd, size)
    return fd


def send(connection: socket.socket, message: Mapping[str, Any], fd: int | None = None) -> None:
    """Sends one message, with a file descriptor if there is one.

    Raises:
        Gone: nobody is there.
    """
    body = json.dumps(message).encode()
    whole = LENGTH.pack(len(body)) + body
    try:
        sent = 0 if fd is None else socket.send_fds(connection, [whole], [fd])
        connection.sendall(memoryview(whole)[sent:])
    except OSError as e:
        raise Gone(str(e)) from None


def receive(connection: socket.socket) -> tuple[dict[str, Any], int | None]:
    """One message, and the file descriptor that came with it.

    Mostly in one call of the system: after each, the server's thread waits for its turn again.

    Raises:
        Gone: the connection has ended, or no message came.
    """
    try:
        data, fds, _, _ = socket.recv_fds(connection, AT_ONCE, 1)
    except OSError as e:
        raise _gone(e) from None
    try:
        data = _until(connection, data, LENGTH.size)
        end = LENGTH.size + LENGTH.unpack_from(data)[0]
        if end > MOST:
            raise Gone(f"a message of {end} bytes")
        data = _until(connection, data, end)
        if len(data) > end:
            raise Gone("two messages, where one waits for the other's answer")
        message = json.loads(data[LENGTH.size :])
        if not isinstance(message, dict):
            raise Gone("not a message")
    except (OSError, ValueError) as e:
        _close(fds)
        raise _gone(e) from None
    except Gone:
        _close(fds)
        raise
    return message, fds[0] if fds else None


def _gone(error: Exception) -> Gone:
    return Late(str(error)) if isinstance(error, TimeoutError) else Gone(str(error))


def _until(connection: socket.socket, data: bytes, length: int) -> bytes:
    """The data, and what follows it up to this length."""
    found = bytearray(data)
    while len(found) < length:
        part = connection.recv(length - len(found))
        if not part:
            raise Gone("the connection has ended")
        found += part
    return bytes(found)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
