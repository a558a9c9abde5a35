"""Fixtures of several unit tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.gpu.server import starting
from handlers.gpu.server.client import Client
from tests.support.gpu_server import ROOT, SLOT, Worker, running


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[starting.Place]:
    """Where a hub of ``tests.support.gpu_server_program`` is found; ended with the test."""
    folder = Path(tempfile.mkdtemp(prefix="hub-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(starting, "PROGRAM", "tests.support.gpu_server_program")
    found = starting.Place(ROOT, "accelerated", 0, 1)
    yield found
    for pid in running(folder):
        os.kill(pid, signal.SIGKILL)
    if found._child is not None:
        found._child.wait()
    shutil.rmtree(folder)


@pytest.fixture
def worker(place: starting.Place) -> Iterator[Worker]:
    """Makes clients of one hub, each as a worker of its own; closed with the test."""
    made: list[Client] = []

    def make() -> Client:
        made.append(Client(place, SLOT))
        return made[-1]

    yield make
    for one in made:
        one.close()
