"""A server under test, what is sent to it, and the check that a fault left nothing behind."""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from deploy.torchserve.server import Server
from tests.support import made
from tests.support.servers import serving, settings_for

T = TypeVar("T")

GOOD = sorted(made.PICTURES.glob("*.jpg"))[0].read_bytes()


@dataclass(frozen=True)
class Reply:
    """One HTTP answer."""

    status: int
    media_type: str
    body: bytes
    seconds: float

    def json(self) -> Any:
        return json.loads(self.body)

    def reason(self, status: int, *words: str) -> str:
        """The message of a refusal: the status, in valid JSON, one line with these words."""
        assert self.status == status, (self.status, self.body[:500])
        answer = self.json()
        message = str(answer["message"])
        assert answer["code"] == status
        assert "\n" not in message
        for word in words:
            assert word in message, message
        return message


@dataclass(frozen=True)
class Bench:
    """A running server whose folders lie apart from all others.

    Attributes:
        room: holds the store, the run folder, and HOME and TMPDIR of the server.
        good: model and body of a request that must succeed after every fault.
    """

    server: Server
    room: Path
    good: tuple[str, bytes]

    @property
    def store(self) -> Path:
        return self.server.settings.model_store

    def ask(
        self,
        body: bytes,
        model: str | None = None,
        purpose: str = "predictions",
        path: str = "/predictions/{}",
        **headers: str,
    ) -> Reply:
        """POSTs a body to a model (GETs where it is empty and not for a prediction)."""
        host, port = self.server.settings.ports[purpose]
        connection = http.client.HTTPConnection(host, port, timeout=60)
        method = "POST" if purpose == "predictions" else "GET"
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        begin = time.monotonic()
        try:
            connection.request(method, path.format(model or self.good[0]), body, named)
            response = connection.getresponse()
            data = response.read()
            kind = response.headers.get_content_type()
            return Reply(response.status, kind, data, time.monotonic() - begin)
        finally:
            connection.close()

    def pids(self, model: str | None = None) -> list[int]:
        """Process ids of the workers of one model, or of all."""
        names = [model] if model else [p.stem for p in sorted(self.store.glob("*.mar"))]
        found = [self.server.client.describe(name) or {} for name in names]
        return sorted(int(w["pid"]) for d in found for w in d.get("workers", ()))

    def files(self) -> set[str]:
        """Every file that the kit does not own here, and the checkout's own top folders."""
        owned = (self.server.settings.run_dir, Path(self.server.state.temp))
        found = {
            str(path)
            for path in self.room.rglob("*")
            if not any(path == o or path.is_relative_to(o) for o in owned)
        }
        for folder in (made.ROOT, made.ROOT / "model_store", made.ROOT / "tests" / "faults"):
            found |= {str(p) for p in folder.iterdir() if p.name not in CACHES}
        return found

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """After the block a good request gets 200, the same workers run, and no file was added."""
        pids, files = self.pids(), self.files()
        yield
        model, body = self.good
        assert self.ask(body, model).status == 200
        assert self.pids() == pids
        assert self.files() - files == set()


CACHES = {
    ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "__pycache__", ".run", ".venv",
}  # fmt: skip


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What the calls return, all begun at the same moment."""
    results: dict[int, T] = {}
    gate = threading.Barrier(len(calls))

    def run(i: int, call: Callable[[], T]) -> None:
        gate.wait()
        results[i] = call()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[i] for i in range(len(calls))]


@contextmanager
def bench(archives: dict[str, Path], good: tuple[str, bytes], **values: object) -> Iterator[Bench]:
    """A server of these archives, by name, in a room of its own."""
    room = Path(tempfile.mkdtemp(prefix="kit-room-"))
    try:
        for name in ("store", "home", "temporary"):
            (room / name).mkdir()
        for name, path in archives.items():
            shutil.copyfile(path, room / "store" / f"{name}.mar")
        settings = settings_for(room / "store", room / "run", name=good[0], **values)
        with ExitStack() as running:
            with at_home_in(room):
                server = running.enter_context(serving(settings, wait=False))
            server.wait_ready(settings.name)
            yield Bench(server, room, good)
    finally:
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def at_home_in(room: Path) -> Iterator[None]:
    """What is started meanwhile has its HOME and its TMPDIR in this folder."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("HOME", str(room / "home"))
        changed.setenv("TMPDIR", str(room / "temporary"))
        changed.setattr(tempfile, "tempdir", str(room / "temporary"))
        yield
