"""A worker's side of the hub: asks it for the boxes of its pictures."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handlers.errors import KitError
from handlers.gpu.server import starting, wire
from handlers.gpu.server.wire import COLUMNS

if TYPE_CHECKING:
    from handlers.detection import Item

logger = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""Seconds for one batch: a hub that takes longer is taken for hung, and ended."""

KEPT_BYTES = 64 << 20
"""Memory for pictures that a worker keeps from one batch to the next."""


class Found(NamedTuple):
    """A hub's answer to one batch.

    Attributes:
        rows: of each picture ``[k, 7]`` float32.
        places: scale, left and top of each picture in the model's input.
        stages: milliseconds per stage, this batch's share.
    """

    rows: list[NDArray[np.float32]]
    places: list[tuple[float, int, int]]
    stages: Mapping[str, float]


class Client:
    """One worker's connection to its hub.

    Args:
        place: where the hub is found.
        slot: bytes of one picture's answer.

    Attributes:
        greeting: what the hub said at first: "precision" and "note".

    Raises:
        RuntimeUnfit, HubDied, NoHub: as ``starting.Place.connect``.
    """

    def __init__(self, place: starting.Place, slot: int):
        self._place = place
        self._slot = slot
        self._number = 0
        self._arena: wire.Arena | None = None
        self._connection, self.greeting = place.connect()
        self._connection.settimeout(PATIENCE_S)

    def ask(self, items: Sequence[Item], every: bool = False) -> Found:
        """The boxes of these pictures.

        Args:
            every: all boxes, suppressed; otherwise the candidates above the threshold.

        Raises:
            RuntimeError: what went wrong on the GPU, or that the hub ended; the next call has
                another one.
        """
        try:
            return self._asked(items, every)
        except wire.Gone as e:
            self._another(e)
            if len(items) > 1:  # the handler asks for each alone: one may be what ended it
                raise RuntimeError(f"the GPU's hub ended while it worked ({e})") from None
        try:
            return self._asked(items, every)
        except wire.Gone as e:
            self._another(e)
            raise RuntimeError(f"the GPU's hub ended twice while it worked ({e})") from None

    def close(self) -> None:
        """Leaves the hub, which ends when its last worker has left."""
        self._connection.close()

    def _another(self, reason: wire.Gone) -> None:
        """Ends the hub, if it is still there, and connects to another one.

        Raises:
            SystemExit: there is none like it to be had. The server starts this worker anew, and
                what serves then is announced.
        """
        logger.warning("the GPU's hub ended (%s): another one is started", reason)
        self._place.show_log()
        self._connection.close()
        starting.end(int(self.greeting["pid"]))
        self._arena = None
        try:
            self._connection, greeting = self._place.connect()
        except KitError as e:
            logger.exception("there is no other hub: this worker ends")
            raise SystemExit(f"no hub: {e}") from None
        if any(greeting.get(what) != self.greeting.get(what) for what in ("precision", "note")):
            logger.error("another hub is not like the last one: this worker ends")
            raise SystemExit("another hub is not like the last one")
        self.greeting = greeting
        self._connection.settimeout(PATIENCE_S)

    def _asked(self, items: Sequence[Item], every: bool) -> Found:
        self._number += 1
        try:
            arena = self._sent(items, every)
        except BaseException:
            self._arena = None  # who knows whether the hub has it
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
        places = [(float(s), int(left), int(top)) for s, left, top in answer["places"]]
        return Found(rows, places, answer["stages"])

    def _fitting(self, size: int) -> tuple[wire.Arena, int | None]:
        """Memory that is large enough, and where it is new its file for the hub."""
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
