"""One client's connection: a request is taken in whole, in bounded time, before it is asked."""

from __future__ import annotations

import asyncio
import time
from enum import Enum
from typing import Any

from deploy.kserve.models import Reply
from deploy.kserve.rest import Asked, head_of
from deploy.torchserve.guard import limits
from deploy.torchserve.guard.asking import speaker
from deploy.torchserve.guard.forms import Fields, Parts, form
from deploy.torchserve.guard.house import House
from deploy.torchserve.guard.http import (
    END,
    MAX_HEAD,
    Chunks,
    Head,
    Refusal,
    query_handed_on,
    read_head,
)
from deploy.torchserve.guard.pages import page
from deploy.torchserve.guard.turns import Turns
from deploy.torchserve.guard.upstream import Job
from handlers.memory import json_memory, mib
from handlers.tracing import RECEIVED

SMALL = 4096
"""Pieces of under 4 KiB are put together: each costs some 60 bytes more than it holds."""

JSON = b"application/json"
SPOKEN = (b"v1", b"v2")
"""First parts of the paths of other protocols."""

CLOSE = b"connection: close\r\n\r\n"


class At(Enum):
    """What the connection is busy with."""

    HEAD = 0
    BODY = 1
    WAITING = 2
    ANSWER = 3
    LINGER = 4


class Request(Job):
    """A request that is asked; its turn and its bytes are given back when TorchServe is done."""

    def __init__(self, client: Client, head: Head, pieces: list[bytes | bytearray], size: int):
        super().__init__(client, head.method, [head.onward(size), *pieces])
        self._house = client.house
        self._turns = client.turns
        self._size = size
        self.begun = client.loop.time()

    def done(self) -> None:
        self._house.held -= self._size
        self._house.asked.discard(self)
        if self._turns:
            self._turns.leave()

    def check(self, now: float) -> None:
        if now - self.begun > self._house.given.answer_s and self.upstream:
            self.upstream.abort()


class Client(asyncio.Protocol):
    """One connection, from one request to the next."""

    def __init__(self, house: House):
        self.house = house
        self.loop = asyncio.get_running_loop()
        self.turns: Turns | None = None
        self._transport: Any = None
        self._at = At.HEAD
        self._ahead = b""
        self._begun = self._last = self.loop.time()
        self._pieces: list[bytes | bytearray] = []
        self._size = 0
        self._head: Head | None = None
        self._chunks: Chunks | None = None
        self._form: Fields | Parts | None = None
        self._is_json = False
        self._unpacked = 0
        self._request: Request | None = None
        self._speaking: asyncio.Task[None] | None = None
        self._full = False
        self._keeps = True
        self._begun_answer = False
        self._deadline = 0.0

    # The connection.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self.house.make_place(self._begun):
            self.house.guests[self] = None
        else:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.house.guests.pop(self, None)
        self._drop()

    def _drop(self) -> None:
        """Whatever was under way is nobody's any more."""
        if self._at is At.WAITING and self.turns:
            self.turns.forget(self)
        if self._speaking is not None:
            self._speaking.cancel()
            self._speaking = None
        if self._request is not None:
            self._request.asker = None
            if self._full and self._request.upstream:
                self._request.upstream.resume()
            self._request = None
        self._forget_body()
        self._at = At.LINGER

    def _forget_body(self) -> None:
        self.house.held -= self._size
        self._pieces, self._size = [], 0

    def data_received(self, data: bytes) -> None:
        self._last = self.loop.time()
        try:
            if self._at is At.BODY:
                self._take_body(data)
            elif self._at is At.HEAD:
                self._take_head(data)
            elif self._at is not At.LINGER:
                self._ahead += data
                if len(self._ahead) > limits.AHEAD:
                    self._transport.pause_reading()
        except Refusal as e:
            self.refuse(e)

    # A request comes in.

    def _take_head(self, data: bytes) -> None:
        begins = not self._ahead
        data = (self._ahead + data).lstrip(b"\r\n")
        if not data:
            return
        if begins:
            self._begun = self._last
        end = data.find(END, 0, MAX_HEAD)
        if end < 0:
            self._ahead = data
            if len(data) >= MAX_HEAD:
                raise Refusal(431, f"a head of more than {MAX_HEAD} bytes came")
            return
        self._ahead = b""
        self._head = head = query_handed_on(read_head(data[:end]))
        self.house.require_read(head)
        self._require(head.length or 0)
        self._form = form(head.media_type)
        self._is_json = head.media_type.partition(b";")[0].strip().lower() == JSON
        self._unpacked = 0
        self._chunks = Chunks() if head.length is None else None
        self._at = At.BODY
        if head.expects and head.length != 0:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._take_body(data[end + len(END) :])

    def _require(self, size: int) -> None:
        most = self.house.given.max_body
        if size > most:
            raise Refusal(413, f"a body of {size:,} bytes or more came; expected at most {most:,}")

    def _require_json(self, data: bytes) -> None:
        """Of JSON, what it may unpack to: TorchServe does that before any handler."""
        self._unpacked += json_memory(data)
        most = self.house.given.max_json
        if self._unpacked > most:
            raise Refusal(
                413,
                f"JSON of {self._size:,} bytes or more came, which may take {mib(self._unpacked)} "
                f"of memory; expected at most {mib(most)}",
            )

    def _take_body(self, data: bytes) -> None:
        assert self._head is not None  # noqa: S101
        if self._chunks is not None:
            for piece in self._chunks.feed(data):
                self._add(piece)
            if self._chunks.rest is not None:
                self._complete(self._head, self._chunks.rest)
            return
        missing = (self._head.length or 0) - self._size
        self._add(data[:missing] if len(data) > missing else data)
        if len(data) >= missing:
            self._complete(self._head, data[missing:])

    def _add(self, data: bytes) -> None:
        if not data or self._at is not At.BODY:
            return
        self._size += len(data)
        self.house.held += len(data)
        self._require(self._size)
        self.house.make_room(self._last)
        if not self._size:  # the slowest was this one
            return
        if self._form is not None:
            self._form.feed(data)
        if self._is_json or (self._form is not None and self._form.has_json):
            self._require_json(data)
        if len(data) >= SMALL:
            self._pieces.append(data)
        elif self._pieces and isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += data
        else:
            self._pieces.append(bytearray(data))

    def _complete(self, head: Head, rest: bytes) -> None:
        if self._at is not At.BODY:
            return
        self._at, self._ahead = At.WAITING, rest
        if self.house.given.traced:
            head.stamp(RECEIVED, time.time_ns())
        if head.path[0] in SPOKEN:
            self._at, self.turns = At.ANSWER, None
            body, self._pieces = b"".join(self._pieces), []
            self._speaking = self.loop.create_task(self._speak(head, body))
            return
        self.turns = self.house.turns_of(head.path)
        if self.turns is None and (reply := page(self.house.given, head)) is not None:
            self._at = At.ANSWER
            self._forget_body()
            self._say(head, reply)
        elif self.turns is None:
            self.go()
        else:
            self.turns.enter(self)

    # It is asked, and answered.

    def go(self) -> None:
        assert self._head is not None  # noqa: S101
        try:
            head = self.house.addressed(self._head)
        except Refusal as e:
            if self.turns:
                self.turns.leave()
            self.refuse(e)
            return
        self._at = At.ANSWER
        self._request = Request(self, head, self._pieces, self._size)
        self._pieces, self._size = [], 0
        self.house.asked.add(self._request)
        self.house.pool.ask(self._request)

    async def _speak(self, head: Head, body: bytes) -> None:
        """Answers in another protocol than TorchServe's; whoever leaves meanwhile is forgotten."""
        fields = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in head.fields}
        method, path = head.method.decode(), head.target.partition(b"?")[0].decode()
        reply = await speaker(self.house).answer(Asked(method, path, fields, body))
        self._speaking = None
        self._forget_body()
        self._say(head, reply)

    def _say(self, head: Head, reply: Reply) -> None:
        self.begin(head_of(reply), len(reply.body), reply.body if head.method != b"HEAD" else b"")
        self.finish()

    def begin(self, head: bytes, size: int, data: bytes) -> None:
        assert self._head is not None  # noqa: S101
        self._begun_answer = True
        self._deadline = self.loop.time() + limits.BODY_S + size / limits.RATE
        self._keeps = self._head.keeps and not self.house.stopping
        self._transport.write(head + (b"\r\n" if self._keeps else CLOSE) + data)

    def take(self, data: bytes) -> None:
        self._transport.write(data)

    def full(self) -> bool:
        return self._full

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._request is not None and self._request.upstream:
            self._request.upstream.resume()

    def finish(self) -> None:
        self._request = None
        if not self._keeps:
            self._linger()
            return
        if self.house.stopping:
            self._transport.close()
            return
        self._at, self._begun_answer = At.HEAD, False
        self.house.guests[self] = self.house.guests.pop(self, None)
        self._begun = self._last = self.loop.time()
        self._transport.resume_reading()
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            self.loop.call_soon(self.data_received, ahead)

    def fail(self, refusal: Refusal) -> None:
        self._request = None
        self.refuse(refusal)

    # It ends.

    def refuse(self, refusal: Refusal) -> None:
        self._drop()
        if self._begun_answer:  # half an answer: the end of the connection says so
            self._transport.abort()
            return
        self.house.count(refusal.reason)
        self._transport.write(refusal.answer())
        self._linger()

    def _linger(self) -> None:
        """Ends the answers, and hears the client out: a reset could take its answer away."""
        self._at, self._ahead = At.LINGER, b""
        self._deadline = self.loop.time() + limits.LINGER_S
        self._transport.resume_reading()
        try:
            self._transport.write_eof()
        except OSError:  # it was reset a moment ago
            self._transport.abort()

    def stop(self) -> None:
        if self._at is At.HEAD and not self._ahead:
            self._transport.close()

    def pace(self, now: float) -> float | None:
        age = now - self._begun
        return self._size / age if self._at is At.BODY and age > limits.YOUNG_S else None

    def give_way(self, now: float) -> bool:
        if self._at in (At.WAITING, At.ANSWER) or now - self._begun < limits.YOUNG_S:
            return False
        if (self.pace(now) or 0) > limits.RATE:
            return False
        self._transport.abort()
        self._drop()
        self.house.guests.pop(self, None)
        return True

    def check(self, now: float) -> None:
        """Ends it where its time is over."""
        since, idle = now - self._begun, now - self._last
        if self._transport.get_write_buffer_size():
            if now > self._deadline:  # the client does not take what it asked for
                self._transport.abort()
        elif self._at is At.HEAD and not self._ahead:
            if since > limits.IDLE_S:
                self._transport.close()
        elif self._at is At.HEAD:
            if since > limits.HEAD_S:
                self.refuse(Refusal(408, f"no whole head came in {limits.HEAD_S} s"))
        elif self._at is At.BODY:
            if idle > limits.STALL_S:
                came = f"{self._size:,} bytes came, then none for {limits.STALL_S} s"
                self.refuse(Refusal(408, came))
            elif since > limits.BODY_S + self._size / limits.RATE:
                came = f"{self._size:,} bytes came in {since:.0f} s"
                least = f"expected at least {limits.RATE >> 10} KiB a second"
                self.refuse(Refusal(408, f"{came}; {least}"))
        elif self._at is At.LINGER and now > self._deadline:
            self._transport.abort()
