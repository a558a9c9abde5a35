"""A GPU server of ``tests.support.gpu_server_program``, and workers of it, for one test."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from handlers.gpu.server import client, starting
from handlers.gpu.server.client import Client
from handlers.images import Item
from tests.support import gpu_server_program as program

SLOT = program.Words.slot
ROOT = Path(__file__).resolve().parents[2]


Worker = Callable[[], Client]


def running(folder: Path) -> list[int]:
    """GPU servers whose socket lies in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if b"tests.support.gpu_server_program" in words and str(folder).encode() in words:
            found.append(int(path.parent.name))
    return found


def words(*given: object) -> list[Item]:
    return [Item(100, 200, None, str(word).encode()) for word in given]


def numbers(found: client.Found) -> list[list[float]]:
    return [rows[:, 1].tolist() for rows in found.rows]


def wait_for_end(address: starting.Address) -> None:
    limit = time.monotonic() + 15
    while running(address.path.parents[1]):
        assert time.monotonic() < limit
        time.sleep(0.05)
