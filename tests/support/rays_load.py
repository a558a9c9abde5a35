"""Load on a cluster by the kit's client: closed loops and open ones, with retries and without."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from examples.client import ClientError, predict


@dataclass(frozen=True)
class Seen:
    """When a request was due and answered, by which version and process; ``error`` where not."""

    due: float
    answered: float
    version: str = ""
    pid: int = 0
    error: str = ""


def asked(url: str, due: float, retries: int) -> Seen:
    """One request of the kit's client."""
    try:
        answer = json.loads(predict(url, b"x", retries=retries))
    except ClientError as e:
        return Seen(due, time.monotonic(), error=str(e))
    return Seen(due, time.monotonic(), answer["version"], answer["pid"])


@contextmanager
def closed(url: str, clients: int, retries: int = 0) -> Iterator[list[Seen]]:
    """Clients that ask again as soon as they are answered, until the block ends."""
    stop, seen = threading.Event(), list[Seen]()

    def client() -> None:
        while not stop.is_set():
            seen.append(asked(url, time.monotonic(), retries))

    with ThreadPoolExecutor(clients) as pool:
        running: list[Future[None]] = [pool.submit(client) for _ in range(clients)]
        try:
            yield seen
        finally:
            stop.set()
    for one in running:
        one.result()


@contextmanager
def opened(url: str, rate: float, retries: int = 0) -> Iterator[list[Seen]]:
    """A request every ``1 / rate`` seconds, however many are unanswered, until the block ends."""
    stop, seen = threading.Event(), list[Seen]()

    def note(due: float) -> None:
        seen.append(asked(url, due, retries))

    def send(pool: ThreadPoolExecutor) -> None:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            pool.submit(note, due)
            due += 1 / rate

    with ThreadPoolExecutor(200) as pool:
        sender = threading.Thread(target=send, args=(pool,))
        sender.start()
        try:
            yield seen
        finally:
            stop.set()
            sender.join()


def errors(seen: list[Seen]) -> list[str]:
    """Why requests were not answered."""
    return [s.error for s in seen if s.error]


def switched_once(seen: list[Seen], old: str, new: str) -> bool:
    """Whether both versions answered, and nobody who asked after a new answer got an old one."""
    first = min((s.answered for s in seen if s.version == new), default=None)
    before = [s for s in seen if s.version == old]
    return first is not None and bool(before) and all(s.due <= first for s in before)
