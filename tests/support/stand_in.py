"""A server that keeps a record of how long it took, to hold a load tester against.

It answers every POST after a time of its own and GET /record with those times in seconds, which
it then forgets. ``stall`` stands still for the last fifth of each period.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ANSWER = b'{"ok": 1}'


class StandIn:
    """One server; times in seconds.

    Args:
        mode: "const", "tail" (one in ten is slow, one in a hundred very slow), "spread" (no two
            alike, 10 ms in the middle) or "stall".
        period: of a standstill.
    """

    def __init__(self, mode: str, period: float = 2.5):
        self._mode = mode
        self._period = period
        self._dice = random.Random(7)  # noqa: S311
        self._record: list[float] = []
        self._loop = asyncio.new_event_loop()
        self._began = time.monotonic()
        self.port = 0

    def run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def serve() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            with suppress(asyncio.CancelledError):
                await server.serve_forever()

        self._task = self._loop.create_task(serve())
        self._loop.run_until_complete(self._task)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)

    def _seconds(self) -> float:
        if self._mode == "tail":
            draw = self._dice.random()
            return 0.01 if draw < 0.9 else 0.05 if draw < 0.99 else 0.2
        if self._mode == "spread":
            return 0.01 * self._dice.lognormvariate(0.0, 0.5)
        spent = (time.monotonic() - self._began) % self._period
        still = self._mode == "stall" and spent > 0.8 * self._period
        return 0.02 + (self._period - spent if still else 0.0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = ANSWER
                if head.startswith(b"post"):
                    size = int(head.split(b"content-length:")[1].split(b"\r")[0])
                    await reader.readexactly(size)
                    began = time.perf_counter()
                    await asyncio.sleep(self._seconds())
                    self._record.append(time.perf_counter() - began)
                elif b"/record" in head:
                    body = json.dumps(self._record).encode()
                    self._record = []
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
                )
        writer.close()


@contextmanager
def stand_in(mode: str, period: float = 2.5) -> Iterator[str]:
    """The address of a server in a thread of this process."""
    server, ready = StandIn(mode, period), threading.Event()
    thread = threading.Thread(target=server.run, args=(ready,), daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.stop()
        thread.join(10)
