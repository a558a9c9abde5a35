"""Real servers for the tests: real TorchServe, free ports, folders of their own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.torchserve import server as servers
from deploy.torchserve import state
from deploy.torchserve.archives import survey
from deploy.torchserve.server import Server
from deploy.torchserve.settings import Settings, make


def free_ports() -> tuple[int, int]:
    """Free ports for HTTP (with its two successors) and gRPC (with its successor)."""
    found: list[int] = []
    with ExitStack() as held:
        for count in (3, 2):
            while True:
                probe = socket.create_server(("127.0.0.1", 0))
                held.enter_context(probe)
                first = probe.getsockname()[1]
                try:
                    for port in range(first + 1, first + count):
                        held.enter_context(socket.create_server(("127.0.0.1", port)))
                except OSError:
                    continue
                found.append(first)
                break
    return found[0], found[1]


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
