"""Real servers for the tests: real TorchServe, free ports, folders of their own."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import IO

from deploy.torchserve import server as servers
from deploy.torchserve import state
from deploy.torchserve.archives import survey
from deploy.torchserve.server import Server
from deploy.torchserve.settings import Settings, make

FIRST_PORT, PORTS, BLOCKS = 20_000, 100, 120
"""Below what systems hand out on their own for connections, 32,768 and up."""


@cache
def _block() -> Iterator[int]:
    """The first port of each free run of five, round and round, in this process's own block.

    The block is this process's own by a lock that ends with it: of two runs on one machine, or
    two processes of a run, none takes a port that the other has found free and not yet bound.
    """
    for number in range(BLOCKS):
        try:
            lock = Path(f"/tmp/kit-tests-ports-{number}.lock").open("a")  # noqa: S108, SIM115
        except PermissionError:  # another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _held.append(lock)
        first = FIRST_PORT + number * PORTS
        return cycle(range(first, first + PORTS, 5))
    raise RuntimeError(f"all {BLOCKS} blocks of ports are taken by other runs")


_held: list[IO[str]] = []


def free_ports() -> tuple[int, int]:
    """Free ports for HTTP (with its two successors) and gRPC (with its successor)."""
    for first in islice(_block(), PORTS):
        with ExitStack() as held:
            try:
                for port in range(first, first + 5):
                    held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first, first + 3
    raise RuntimeError(f"no five free ports in a row among {PORTS}")


def settings_for(store: Path, run_dir: Path, **values: object) -> Settings:
    """Settings on free ports of loopback, with one worker where nothing else is said."""
    port, grpc_port = free_ports()
    texts = {"workers": 1, "port": port, "grpc_port": grpc_port, "model_store": store, **values}
    return make({**{k: str(v) for k, v in texts.items()}, "run_dir": str(run_dir)})


@contextmanager
def serving(settings: Settings, wait: bool = True) -> Iterator[Server]:
    """A server of the store's archives; the named model is READY, and all is gone afterwards."""
    state.prepare(settings.run_dir)
    archives, _ = survey(settings.model_store)
    server = servers.start(settings, archives)
    try:
        if wait:
            server.wait_ready(settings.name)
        yield server
    finally:
        servers.stop(server, drain_s=0)
