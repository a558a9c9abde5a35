"""Row 37: a new version while under load, on Ray; a new version that is broken."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import rays
from tests.support.hosted import echo
from tests.support.rays import Served, ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLIENTS = 4


@dataclass(frozen=True)
class Seen:
    """When a request was sent and answered, by what version, and its status."""

    sent: float
    answered: float
    status: int
    version: str


@contextmanager
def load(url: str) -> Iterator[list[Seen]]:
    """Asks all the time, without retries."""
    stop, seen = threading.Event(), list[Seen]()

    def client() -> None:
        while not stop.is_set():
            sent = time.monotonic()
            reply = ask(url, b"x")
            version = json.loads(reply.body).get("version", "")
            seen.append(Seen(sent, time.monotonic(), reply.status, version))

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients: list[Future[None]] = [pool.submit(client) for _ in range(CLIENTS)]
        try:
            yield seen
        finally:
            stop.set()
    for one in clients:
        one.result()


def switched_once(seen: list[Seen], old: str, new: str) -> bool:
    """Whether nobody who asked after a new answer got an old one."""
    first = min(s.answered for s in seen if s.version == new)
    late = [s for s in seen if s.version == old and s.sent > first]
    return not late and any(s.version == old for s in seen)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("store")
    echo(folder, "echo", sleep_ms=5)
    flags = ("--replicas", "1", "--drain-timeout", "5")
    with rays.network(), rays.serving(tmp_path_factory.mktemp("run"), folder, *flags) as found:
        yield found


def update(archive: Path, sample: Path, *flags: str) -> tuple[int, str, str]:
    line = ("--cluster", "auto", "--update", archive, "--sample", sample, "--replicas", "1")
    done = rays.run(*line, *flags)
    return done.returncode, done.stdout, done.stderr


def test_row_37_a_new_version_under_load(served: Served, tmp_path: Path) -> None:
    """Row 37: zero failed requests; the versions switch once; a broken one changes nothing."""
    (tmp_path / "sample").write_bytes(b"sample")
    (tmp_path / "bad").write_bytes(b"bad")
    url = f"{served.url}/predictions/echo"
    broken = echo(tmp_path / "broken", "echo", version="1.5", broken=True)
    second = echo(tmp_path / "second", "echo", version="2.0", sleep_ms=5)
    third = echo(tmp_path / "third", "echo", version="3.0", sleep_ms=5)
    with load(url) as seen:
        code, _, said = update(broken, tmp_path / "sample")
        assert (code, said.splitlines()[-1]) == (
            1,
            "error: echo.mar: this machine lacks a part that the model needs",
        )
        code, _, said = update(second, tmp_path / "bad")
        assert code == 1
        assert said.splitlines()[-1].startswith("error: echo: bad -> 400")
        assert {s.version for s in seen} == {"1.0"}
        code, told, said = update(second, tmp_path / "sample")
        assert code == 0, said
        assert "model    echo 2.0 answers" in told
        time.sleep(1)
    assert {s.status for s in seen} == {200}
    assert len(seen) > 500
    assert switched_once(seen, "1.0", "2.0")
    assert ask(f"{url}/1.0", b"x").status == 404
    code, _, said = update(third, tmp_path / "sample", "--keep")
    assert code == 0, said
    assert [json.loads(ask(u, b"x").body)["version"] for u in (url, f"{url}/2.0")] == ["3.0", "2.0"]
    code, _, said = update(third, tmp_path / "sample")
    assert (code, "this very archive is served already" in said) == (1, True)
