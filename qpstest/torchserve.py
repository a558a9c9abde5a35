"""A TorchServe that is measured."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from urllib.parse import quote

from handlers.errors import KitError
from qpstest import server_metrics, tasks
from qpstest.agent import Target
from qpstest.http_api import HttpTarget, Plain
from qpstest.options import SERVED, Options, Server
from qpstest.targets import Setup
from qpstest.watch import ServerWatch, Watch

GRPC_PATIENCE = 3.0
"""Seconds."""


class TorchServe:
    """Its management API names model, workers and batch; its metrics page has the stages."""

    def setup(self, options: Options, bodies: Sequence[bytes]) -> Setup:
        """How it is asked; raises ``KitError`` where it does not answer or lacks the model."""
        server = options.server
        server_metrics.fetch(server.url, "/ping", server.token)
        if options.protocol == "grpc":
            _connect(server.grpc_address)
        notes: list[str] = []
        status = None
        try:
            status = server_metrics.model_status(
                server.management_url, options.name, server.management_token
            )
        except KitError as e:
            if "has no model" in str(e):
                raise
            notes.append(f"no worker figures: {e}")
        ready = [w for w in status.workers if w.status == "READY"] if status else []
        if status and not ready:
            raise KitError(
                f"model {options.name!r} has no worker that is ready at {server.url}: "
                "look into the server's log"
            )
        return Setup(
            mode=SERVED,
            targets=[_target(options, bodies)] * options.clients,
            processes=len(ready) if status else None,
            batch=status.batch if status else None,
            about={
                "protocol": options.protocol,
                "clients": options.clients,
                "model_version": status.version if status else None,
                "max_batch_delay_ms": status.delay_ms if status else None,
            },
            notes=tuple(notes),
        )

    def watch(self, options: Options) -> Watch:
        return ServerWatch(options.server, options.name)

    def task(self, server: Server, model: str) -> str | None:
        """The task that the model's handler names; None where nothing answers."""
        with contextlib.suppress(KitError):
            return tasks.described(
                server_metrics.description(server.management_url, model, server.management_token)
            )
        return None


def _connect(address: str) -> None:
    """TorchServe opens its gRPC port after its HTTP ports: have a little patience."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + GRPC_PATIENCE
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), GRPC_PATIENCE).close()
            return
        except OSError as e:
            if time.monotonic() > deadline:
                hint = server_metrics.START_HINT
                raise KitError(f"nothing answers gRPC at {address}: {hint} ({e})") from None
            time.sleep(0.1)


def _target(options: Options, bodies: Sequence[bytes]) -> Target:
    server = options.server
    more = (options.timeout, server.token, options.accept, options.task)
    if options.protocol == "http":
        wire = Plain(f"/predictions/{quote(options.name, safe='')}")
        return HttpTarget(server.url, wire, bodies, *more)
    try:
        from qpstest.grpc_api import GrpcTarget
    except ImportError as e:
        raise KitError(f"--protocol grpc: {e}: pip install grpcio protobuf") from None
    return GrpcTarget(server.grpc_address, options.name, bodies, *more)
