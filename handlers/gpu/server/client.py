"""A worker's side of the GPU server: asks it for the boxes of its pictures."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handlers.boxes import COLUMNS
from handlers.errors import KitError
from handlers.gpu.server import starting, wire
from handlers.images import Item
from handlers.letterbox import Letterbox

logger = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""Seconds for one batch: a server that takes longer is taken for hung, and ended."""

KEPT_BYTES = 64 << 20
"""Memory for pictures that a worker keeps from one batch to the next."""


class Found(NamedTuple):
    """The server's answer to one batch.

    Attributes:
        rows: of each picture ``[k, 7]`` float32.
        letterboxes: how each picture lies in the model's input.
        stages: milliseconds per stage, this batch's share.
    """

    rows: list[NDArray[np.float32]]
    letterboxes: list[Letterbox]
    stages: Mapping[str, float]


class Client:
    """One worker's connection to its GPU server.

    Args:
        address: where the server is found.
        slot: bytes of one picture's answer.

    Attributes:
        greeting: what the server said at first: "precision" and "note".

    Raises:
        RuntimeUnfit, ServerDied, NoServer: as ``starting.Address.connect``.
    """

    def __init__(self, address: starting.Address, slot: int):
        self._address = address
        self._slot = slot
        self._number = 0
        self._arena: wire.Arena | None = None
        self._connection, self.greeting = address.connect()
        self._connection.settimeout(PATIENCE_S)

    def ask(self, items: Sequence[Item], every: bool = False) -> Found:
        """The boxes of these pictures.

        Args:
            every: all boxes, suppressed; otherwise the candidates above the threshold.

        Raises:
            RuntimeError: what went wrong on the GPU, or that the server ended; the next call
                has another one.
        """
        try:
            return self._asked(items, every)
        except wire.Gone as e:
            self._another(e)
            if len(items) > 1:  # the handler asks for each alone: one may be what ended it
                raise RuntimeError(f"the GPU server ended while it worked ({e})") from None
        try:
            return self._asked(items, every)
        except wire.Gone as e:
            self._another(e)
            raise RuntimeError(f"the GPU server ended twice while it worked ({e})") from None

    def close(self) -> None:
        """Leaves the server, which ends when its last worker has left."""
        self._connection.close()

    def _another(self, reason: wire.Gone) -> None:
        """Ends the server, if it is still there, and connects to another one.

        Raises:
            SystemExit: there is no other like it. The server starts this worker anew, and
                what serves then is announced.
        """
        logger.warning("the GPU server ended (%s): another one is started", reason)
        self._address.show_log()
        self._connection.close()
        starting.end(int(self.greeting["pid"]))
        self._arena = None
        try:
            self._connection, greeting = self._address.connect()
        except KitError as e:
            logger.exception("there is no other GPU server: this worker ends")
            raise SystemExit(f"no GPU server: {e}") from None
        if any(greeting.get(what) != self.greeting.get(what) for what in ("precision", "note")):
            logger.error("another GPU server is not like the last one: this worker ends")
            raise SystemExit("another GPU server is not like the last one")
        self.greeting = greeting
        self._connection.settimeout(PATIENCE_S)

    def _asked(self, items: Sequence[Item], every: bool) -> Found:
        self._number += 1
        try:
            arena = self._sent(items, every)
        except BaseException:
            self._arena = None  # who knows whether the server has it
            raise
        answer, _ = wire.receive(self._connection)
        if answer["error"]:
            raise RuntimeError(answer["error"])
        return self._found(answer, arena)

    def _sent(self, items: Sequence[Item], every: bool) -> wire.Arena:
        """Sends a question; returns the memory that the pictures lie in and the answers will."""
        begin = self._slot * len(items)
        data = [_bytes(item) for item in items]
        arena, new = self._fitting(begin + sum(map(len, data)))
        try:
            told = []
            for item, part in zip(items, data, strict=True):
                arena.view[begin : begin + len(part)] = part
                shape = None if item.picture is None else item.picture.pixels.shape
                told.append([begin, len(part), item.height, item.width, shape])
                begin += len(part)
            message = {"number": self._number, "every": every, "pictures": told}
            wire.send(self._connection, {**message, "arena": arena.size}, new)
        finally:
            if new is not None:
                os.close(new)
        return arena

    def _found(self, answer: Mapping[str, Any], arena: wire.Arena) -> Found:
        if answer["number"] != self._number:
            raise wire.Gone("an answer to another question")
        rows = [
            np.frombuffer(arena.view, np.float32, count * COLUMNS, i * self._slot)
            .reshape(count, COLUMNS)
            .copy()
            for i, count in enumerate(answer["found"])
        ]
        letterboxes = [Letterbox(*values) for values in answer["letterboxes"]]
        return Found(rows, letterboxes, answer["stages"])

    def _fitting(self, size: int) -> tuple[wire.Arena, int | None]:
        """Memory that is large enough, and where it is new its file for the server."""
        if self._arena is not None and size <= self._arena.size <= max(size, KEPT_BYTES):
            return self._arena, None
        size = max(size, min(size + size // 2, KEPT_BYTES), 1 << 20)
        fd = wire.file_in_memory(size)
        self._arena = wire.Arena(os.dup(fd), size)
        return self._arena, fd


def _bytes(item: Item) -> memoryview | bytes:
    """A JPEG's bytes, or the pixels of a picture that was decoded here."""
    if item.picture is None:
        return item.data
    return item.picture.pixels.ravel().data
