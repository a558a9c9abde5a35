from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from deploy.torchserve import drain
from deploy.torchserve.client import Client
from deploy.torchserve.settings import make

OBEYS = "import sys; print(flush=True); sys.stdin.read()"
BUSY = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + OBEYS


@contextmanager
def process(code: str) -> Iterator[psutil.Process]:
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as found:
        assert found.stdout is not None
        found.stdout.readline()
        yield psutil.Process(found.pid)
        found.kill()


@pytest.mark.parametrize(("code", "idle"), [(OBEYS, True), (BUSY, False)])
def test_idle_is_who_ends_when_told(code: str, idle: bool) -> None:
    with process(code) as guard:
        assert drain.drain(Client(make({})), [guard], 0.5) is idle


def test_a_guard_that_has_ended_is_idle() -> None:
    with process(OBEYS) as guard:
        guard.kill()
    assert drain.drain(Client(make({})), [guard], 0.5)


def test_calls_that_do_not_come_through_the_guard_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = [2, 1, 0]
    monkeypatch.setattr(drain, "waiting", lambda client: left.pop(0))
    assert drain.drain(Client(make({})), [], 5)
    assert left == []
