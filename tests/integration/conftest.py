"""Fixtures of several tests of the GPU server."""

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
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[starting.Address]:
    """Where a GPU server of ``tests.support.gpu_server_program`` is found; ended with the test."""
    folder = Path(tempfile.mkdtemp(prefix="server-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(starting, "PROGRAM", "tests.support.gpu_server_program")
    found = starting.Address(ROOT, "accelerated", 0, 1)
    yield found
    for pid in running(folder):
        os.kill(pid, signal.SIGKILL)
    if found._child is not None:
        found._child.wait()
    shutil.rmtree(folder)


@pytest.fixture
def worker(address: starting.Address) -> Iterator[Worker]:
    """Makes clients of one GPU server, each as a worker of its own; closed with the test."""
    made: list[Client] = []

    def make() -> Client:
        made.append(Client(address, SLOT))
        return made[-1]

    yield make
    for one in made:
        one.close()
