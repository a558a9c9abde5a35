"""Requests of the guard's own: another protocol's, asked as TorchServe's predictions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from http.client import HTTPException

from deploy.kserve.models import Reply
from deploy.kserve.rest import Speaker
from deploy.kserve.tensors import Bytes, Mistake
from deploy.torchserve import management
from deploy.torchserve.guard.forms import form
from deploy.torchserve.guard.house import House
from deploy.torchserve.guard.http import CHUNKED, USUAL, Chunks, Refusal
from deploy.torchserve.guard.turns import Turns
from deploy.torchserve.guard.upstream import Job
from handlers.memory import json_memory, mib
from handlers.tracing import RECEIVED

CONNECTION = {
    "content-length", "connection", "transfer-encoding", "keep-alive", "pragma", "cache-control",
    "expires", "x-request-id",
}  # fmt: skip
"""Headers of TorchServe's own, which say nothing of an answer."""


class Question(Job):
    """One prediction; waits for its turn like any client's, and is awaited."""

    def __init__(self, house: House, turns: Turns, head: bytes, body: Bytes):
        # Sent one after the other: put together, a large body would be there twice.
        super().__init__(self, b"POST", [head, b"", body])
        self._house = house
        self._turns = turns
        self._head = b""
        self._data: list[bytes] = []
        self._begun: float | None = None
        self._loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[Reply] = self._loop.create_future()

    async def answer(self) -> Reply:
        """The reply; where nobody waits for it any more, its turn is given on.

        Raises:
            Mistake: there is none.
        """
        try:
            self._turns.enter(self)
            return await self._answered
        except Refusal as e:
            raise Mistake(str(e), e.status, e.reason) from None
        finally:
            self.asker = None
            if self._begun is None:
                self._turns.forget(self)

    def go(self) -> None:
        self._begun = self._loop.time()
        self._house.asked.add(self)
        self._house.pool.ask(self)

    def done(self) -> None:
        self._house.asked.discard(self)
        self._turns.leave()

    def check(self, now: float) -> None:
        if self._begun and now - self._begun > self._house.given.answer_s and self.upstream:
            self.upstream.abort()

    def begin(self, head: bytes, size: int, data: bytes) -> None:
        self._head = head
        self.take(data)

    def take(self, data: bytes) -> None:
        self._data.append(data)

    def full(self) -> bool:
        return False

    def finish(self) -> None:
        if not self._answered.done():
            self._answered.set_result(read(self._head, b"".join(self._data)))

    def fail(self, refusal: Refusal) -> None:
        self.done()
        if not self._answered.done():
            self._answered.set_exception(Mistake(str(refusal), refusal.status, refusal.reason))


def read(head: bytes, data: bytes) -> Reply:
    """An answer of TorchServe's, its chunks put together."""
    first, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    fields = (line.decode("latin-1").partition(":") for line in lines)
    named = {name.strip().lower(): value.strip() for name, _, value in fields}
    headers = {name: value for name, value in named.items() if name not in CONNECTION}
    if CHUNKED.search(head):
        data = b"".join(Chunks(any_size=True).feed(data))
    return Reply(int(first.split()[1]), headers, data)


@contextmanager
def hold(house: House, size: int) -> Iterator[None]:
    """Counts a request's bytes among those that are held; raises ``Mistake`` for too many."""
    house.held += size
    try:
        house.make_room(asyncio.get_running_loop().time())
        yield
    except Refusal as e:
        raise Mistake(str(e), e.status, e.reason) from None
    finally:
        house.held -= size


@cache
def speaker(house: House) -> Speaker:
    """What speaks the Open Inference Protocol for the models of this guard."""
    given = house.given

    async def ask(name: str, body: Bytes, headers: Mapping[str, str]) -> Reply:
        require(headers.get("content-type", "").encode(), body)
        fields = {**headers, "host": "localhost", "content-length": str(len(body))}
        if given.traced:
            fields[RECEIVED] = str(time.time_ns())
        lines = [f"POST /predictions/{name} HTTP/1.1"]
        lines += [f"{field}: {value}" for field, value in fields.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        return await Question(house, house.turns[name.encode()], head, body).answer()

    async def ready(name: str) -> bool | None:
        key = management.key(given.keys, "management")
        try:
            told = await asyncio.to_thread(management.describe, *given.management, key, name)
        except (OSError, HTTPException):
            return False
        if told is not None and not told.get("maxWorkers"):
            return None
        return management.is_ready(told)

    def require(media_type: bytes, body: Bytes) -> None:
        """What TorchServe takes apart before any handler has the bounds of any other request."""
        try:
            parts = form(media_type)
            if parts is not None:
                parts.feed(bytes(body))
        except Refusal as e:
            raise Mistake(str(e), e.status, e.reason) from None
        kind = media_type.partition(b";")[0].strip().lower()
        if kind == b"application/json" or (parts is not None and parts.has_json):
            require_json(bytes(body))

    def require_json(data: bytes) -> None:
        if (needed := json_memory(data)) > given.max_json:
            raise Mistake(
                f"JSON of {len(data):,} bytes came, which may take {mib(needed)} of memory; "
                f"expected at most {mib(given.max_json)}",
                413,
            )

    def refused(mistake: Mistake) -> None:
        if mistake.reason is not None:
            house.count(mistake.reason or USUAL[mistake.status])

    return Speaker(house.models, ask, ready, require_json, refused)
