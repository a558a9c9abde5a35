"""A guard before a server of its own making, in a thread: for clients that are no coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.guard_stage import Answer, Stage


@contextmanager
def staged(folder: Path, answer: Answer, **given: object) -> Iterator[str]:
    """The guard's address."""
    loop, ready, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    found: list[str] = []

    async def scene() -> None:
        async with Stage(folder, answer, **given) as stage:
            host, port = stage.address
            found.append(f"http://{host}:{port}")
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(scene(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
        loop.close()
