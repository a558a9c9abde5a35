"""Connections to TorchServe: one request at a time on each, kept for the next."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from deploy.torchserve.guard.http import CHUNKED, CONNECTION, END, LENGTH, Chunks, Refusal

STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
NO_BODY = (204, 304)
MAX_ANSWER_HEAD = 1 << 16
HIGH = 1 << 20
"""Bytes of a request that wait for TorchServe to read on."""


Piece = bytes | bytearray | memoryview
"""A part of a request."""


class Asker(Protocol):
    """Who waits for an answer."""

    def begin(self, head: bytes, size: int, data: bytes) -> None:
        """The answer's head and the first of its body.

        Args:
            head: without a Connection header and without the empty line at its end.
            size: bytes of the body; 0 where that is not known.
        """

    def take(self, data: bytes) -> None:
        """A piece of its body."""

    def full(self) -> bool:
        """Whether the client takes its answer more slowly than it comes."""

    def finish(self) -> None:
        """The answer is complete."""

    def fail(self, refusal: Refusal) -> None:
        """There will be no answer, or no more of it."""


class Upstream(asyncio.Protocol):
    """One connection to TorchServe.

    Where the client leaves, the answer is awaited all the same: TorchServe computes it, so its turn
    is not over before.
    """

    def __init__(self, pool: Pool):
        self._pool = pool
        self._transport: Any = None
        self._job: Job | None = None
        self._carry = b""
        self._closes = False
        self._left = 0
        self._chunks: Chunks | None = None
        self._in_head = True
        self._to_send: deque[Piece] = deque()
        self._stuffed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(HIGH)

    def ask(self, job: Job) -> None:
        self._job, job.upstream = job, self
        self._in_head, self._closes, self._chunks = True, False, None
        self._to_send, job.request = deque(job.request), []
        if len(self._to_send) > 1:
            head, first = self._to_send.popleft(), self._to_send.popleft()
            self._to_send.appendleft(bytes(head) + first)
        self._send()

    def _send(self) -> None:
        while self._to_send and not self._stuffed:
            self._transport.write(self._to_send.popleft())

    def pause_writing(self) -> None:
        self._stuffed = True

    def resume_writing(self) -> None:
        self._stuffed = False
        self._send()

    def data_received(self, data: bytes) -> None:
        if self._job is None:
            self._transport.abort()
            return
        if self._in_head:
            if self._carry:
                data, self._carry = self._carry + data, b""
            end = data.find(END)
            if end < 0:
                self._carry = data
                if len(data) > MAX_ANSWER_HEAD:
                    self._transport.abort()
                return
            self._head(data[: end + 2], self._job, data[end + 4 :])
        else:
            if self._job.asker and data:
                self._job.asker.take(data)
            self._body(data, self._job)

    def _head(self, head: bytes, job: Job, data: bytes) -> None:
        status = STATUS.match(head)
        length, chunked = LENGTH.search(head), CHUNKED.search(head)
        self._in_head = False
        self._left = int(length[1]) if length else 0
        if job.method == b"HEAD" or (status and int(status[1]) in NO_BODY):
            self._left, chunked = 0, None
        self._chunks = Chunks(any_size=True) if chunked else None
        if found := CONNECTION.search(head):
            self._closes = b"close" in found[0].lower()
            head = CONNECTION.sub(b"", head)
        if job.asker:
            job.asker.begin(head, self._left, data)
        self._body(data, job)

    def _body(self, data: bytes, job: Job) -> None:
        if self._chunks is not None:
            for _ in self._chunks.feed(data):
                pass
            complete = self._chunks.rest is not None
        else:
            self._left -= len(data)
            complete = self._left <= 0
        if complete:
            self._job = None
            if self._closes:
                self._transport.close()
            else:
                self._pool.idle.append(self)
            job.done()
            if job.asker:
                job.asker.finish()
        elif job.asker and job.asker.full():
            self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._pool.idle:
            self._pool.idle.remove(self)
        if (job := self._job) is not None:
            self._job = None
            job.fail(Refusal(502, "the server ended the connection before it had answered"))

    def abort(self) -> None:
        self._transport.abort()


class Job:
    """One request that is complete.

    Args:
        asker: who asks; None once it has left.
        request: the head and the pieces of the body.
    """

    def __init__(self, asker: Asker, method: bytes, request: Sequence[Piece]):
        self.asker: Asker | None = asker
        self.method = method
        self.request = list(request)
        self.upstream: Upstream | None = None

    def done(self) -> None:
        """TorchServe has no more to do with it."""

    def fail(self, refusal: Refusal) -> None:
        self.done()
        if self.asker:
            self.asker.fail(refusal)


class Pool:
    """Connections to one socket."""

    def __init__(self, socket: str):
        self.socket = socket
        self.idle: list[Upstream] = []
        self._opening: set[asyncio.Task[None]] = set()

    def ask(self, job: Job) -> None:
        """Sends one request; its asker hears of the answer."""
        if self.idle:
            self.idle.pop().ask(job)
            return
        task = asyncio.get_running_loop().create_task(self._open(job))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, job: Job) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, upstream = await loop.create_unix_connection(lambda: Upstream(self), self.socket)
        except OSError as e:
            told = f"the server does not take requests yet ({e.strerror})"
            job.fail(Refusal(503, told, "not_ready"))
            return
        upstream.ask(job)
