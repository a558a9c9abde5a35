"""A guard before a server of its own making, in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from deploy.torchserve.guard.client import Client
from deploy.torchserve.guard.house import House
from deploy.torchserve.guard.limits import Given

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


async def whole(reader: asyncio.StreamReader) -> bytes:
    """One message with a Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def echo(request: bytes, writer: asyncio.StreamWriter) -> None:
    body = b"%d" % len(request.partition(b"\r\n\r\n")[2])
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: keep-alive\r\n\r\n" % len(body)
    )
    writer.write(body)


def after(gate: asyncio.Event) -> Answer:
    """Echoes once the gate is open."""

    async def later(request: bytes, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await echo(request, writer)

    return later


class Stage:
    """A guard, what stands behind it, and how many asked that."""

    def __init__(self, folder: Path, answer: Answer = echo, **given: object):
        self._socket = str(folder / "s")
        self._answer = answer
        values = {
            "models": {"fd1": (2, 3)},
            "max_body": 1 << 20,
            "max_json": 32_000,
            "held": 1 << 20,
        }
        told = {"shared": False, "server": 1, "answer_s": 9, "host": "", "port": 0}
        self.given = Given(socket=self._socket, **{**told, **values, **given})  # type: ignore[arg-type]
        self.asked = 0
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Stage:
        self.house = House(self.given, 10)
        self._behind = await asyncio.start_unix_server(self._serve, self._socket)
        loop = asyncio.get_running_loop()
        self._guard = await loop.create_server(lambda: Client(self.house), "127.0.0.1", 0)
        self._checking = asyncio.ensure_future(self._check())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._checking.cancel()
        self._guard.close()
        self._behind.close()
        await asyncio.sleep(0.02)  # who has closed is heard
        for guest in list(self.house.guests):
            guest.stop()
        for upstream in list(self.house.pool.idle):
            upstream.abort()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0.02)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            now = asyncio.get_running_loop().time()
            for each in (*self.house.guests, *self.house.asked):
                each.check(now)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while True:
                request = await whole(reader)
                self.asked += 1
                await self._answer(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._guard.sockets[0].getsockname()
        return host, port

    async def connect(self) -> Streams:
        return await asyncio.open_connection(*self.address)

    async def ask(self, request: bytes) -> bytes:
        """What a client hears until the answer is complete or the connection ends."""
        reader, writer = await self.connect()
        writer.write(request)
        try:
            return await whole(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        finally:
            writer.close()


def question(body: bytes, more: str = "", model: str = "fd1") -> bytes:
    head = f"PUT /predictions/{model} HTTP/1.1\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def run(awaited: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(awaited, 20)

    asyncio.run(bounded())
