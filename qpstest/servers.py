"""The kinds of servers that can be measured, and the simplest of them: a body in, a body out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from handlers.errors import KitError
from qpstest import server_metrics
from qpstest.http_api import HttpTarget, Plain
from qpstest.options import SERVED, Options, Server
from qpstest.targets import Setup
from qpstest.torchserve import TorchServe
from qpstest.v2 import OpenInference, Triton
from qpstest.watch import Unwatched, Watch


class ServerKind(Protocol):
    """What the tester needs to know of a kind of server."""

    def setup(self, options: Options, bodies: Sequence[bytes]) -> Setup:
        """How it is asked; raises ``KitError`` where it does not answer or lacks the model."""
        ...

    def watch(self, options: Options) -> Watch:
        """What looks at it before and after."""
        ...

    def task(self, server: Server, model: str) -> str | None:
        """The model's task, where the server names it."""
        ...


class PostedTo:
    """Inputs are posted to one address.

    Args:
        name: of the kind.
        health: a path that answers 200 while the server can be asked; "" where none is known.
    """

    def __init__(self, name: str, health: str = ""):
        self._name = name
        self._health = health

    def setup(self, options: Options, bodies: Sequence[bytes]) -> Setup:
        server = options.server
        hint = f"is the server ({self._name}) running there?"
        status, _ = server_metrics.fetch(server.url, self._health or "/", server.token, hint=hint)
        if self._health and status != 200:
            raise KitError(f"{server.url}{self._health} answered {status}: 200 was expected")
        target = HttpTarget(
            server.url, Plain(server.path or "/"), bodies, options.timeout, server.token,
            options.accept, options.task,
        )  # fmt: skip
        about = {"protocol": options.protocol, "clients": options.clients}
        return Setup(mode=SERVED, targets=[target] * options.clients, about=about)

    def watch(self, options: Options) -> Watch:
        return Unwatched()

    def task(self, server: Server, model: str) -> str | None:
        return None


KINDS: dict[str, ServerKind] = {
    "torchserve": TorchServe(),
    "ray": PostedTo("Ray Serve", "/-/healthz"),
    "kserve": OpenInference("KServe"),
    "triton": Triton("Triton"),
    "url": PostedTo("url"),
}
