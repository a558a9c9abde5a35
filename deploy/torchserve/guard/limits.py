"""What the guard lets pass: times, sizes, and what it was started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

HEAD_S = 10
"""Seconds within which a request's head must have come."""

STALL_S = 10
"""Seconds that an upload may pause."""

BODY_S = 20
RATE = 64 << 10
"""An upload must have come, and an answer been taken, within 20 s and a second for each 64 KiB."""

IDLE_S = 75
"""Seconds that a connection stays open between two requests."""

LINGER_S = 5
"""Seconds in which a refused client is heard out, so that it reads why."""

YOUNG_S = 1
"""Uploads younger than this are not ended to make room: nobody knows yet how fast they are."""

AHEAD = 64 << 10
"""Bytes that a client may send ahead of its answer."""


@dataclass(frozen=True)
class Given:
    """What one guard process was started with.

    Attributes:
        host, port: where it listens; ``shared`` with other processes.
        socket: TorchServe's own socket.
        server: the front end's process id; the guard ends with it.
        answer_s: seconds after which TorchServe is taken not to answer any more.
        max_body: bytes of the largest body; ``max_json`` of memory that JSON may unpack to.
        held: bytes of bodies that this process may hold, until they are answered.
        models: model -> (requests that TorchServe has at once, requests that wait).
        described: model -> what the Open Inference Protocol says of it (``deploy.kserve.models``).
        paths: model -> what OpenAPI says of it (``deploy.openapi``); ``tokens`` whether TorchServe
            wants one.
        traced: whether the workers are told when each request had come.
        metrics: where this process gives the figures of all; TorchServe's are at
            ``metrics_socket``.
        management: where TorchServe says whether a model is READY; ``keys`` has the tokens.
        v2_grpc_port: where the protocol is spoken by gRPC, too; 0 for nowhere.
        versions: model -> version that clients may ask -> its name in TorchServe.
        turn: how often this was changed since the start.
    """

    host: str
    port: int
    shared: bool
    socket: str
    server: int
    answer_s: int
    max_body: int
    max_json: int
    held: int
    models: dict[str, tuple[int, int]]
    described: dict[str, dict[str, Any]] = field(default_factory=dict)
    paths: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: bool = False
    traced: bool = False
    metrics: tuple[str, int] = ("", 0)
    metrics_socket: str = ""
    management: tuple[str, int] = ("", 0)
    keys: str = ""
    v2_grpc_port: int = 0
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    turn: int = 0
