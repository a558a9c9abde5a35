"""One process of one model on a Ray cluster.

It imports nothing of ``handlers``: the archive brings its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve

from deploy.hosting.code import HostError
from deploy.hosting.model import Answer, Model, Request
from deploy.ray.binding import bind_to_node
from deploy.ray.metrics import RayMetrics


@dataclass(frozen=True)
class Served:
    """What a replica is made of.

    Attributes:
        path: of the archive, the same on every node.
        sha256: of the archive; a node with another one under that path is refused.
        batch_size, max_batch_delay: as the settings have them, in ms.
        gpu: whether the replica has one.
        response_timeout: seconds after which a batch is taken not to end any more.
    """

    path: str
    sha256: str
    name: str
    batch_size: int
    max_batch_delay: int
    threads: int
    gpu: bool
    response_timeout: int


class Replica:
    """Answers one archive; Ray Serve asks it."""

    def __init__(self, served: Served):
        bind_to_node()
        path = Path(served.path)
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as e:
            raise HostError(f"{path}: not on this node ({e.strerror})") from None
        if found != served.sha256:
            raise HostError(
                f"{path}: sha256 {found[:12]}... on this node, {served.sha256[:12]}... where it was"
                " served from: give every node the same file"
            )
        self._model = Model(
            path,
            name=served.name,
            gpu=0 if served.gpu else None,
            threads=served.threads,
            batch_size=served.batch_size,
            metrics=RayMetrics(),
        )
        self._timeout = served.response_timeout
        self._began: float | None = None
        # A thread of its own: the event loop stays free for health checks and the next batch.
        self._thread = ThreadPoolExecutor(1, "model")
        self._batched.set_max_batch_size(served.batch_size)
        self._batched.set_batch_wait_timeout_s(served.max_batch_delay / 1e3)

    async def answer(self, request: Request) -> Answer:
        """One request's answer, computed together with others that came meanwhile."""
        answer: Answer = await self._batched(request)
        return answer

    def describe(self) -> dict[str, Any]:
        """What is loaded, as the archive's handler says it."""
        return self._model.describe()

    def check_health(self) -> None:
        """Ray Serve replaces a replica whose check raises."""
        began = self._began
        if began is not None and time.monotonic() - began > self._timeout:
            raise RuntimeError(f"a batch has not ended in {self._timeout} s")

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def _batched(self, requests: list[Request]) -> list[Answer]:
        self._began = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._model.answer, requests)
        finally:
            self._began = None

    def __del__(self) -> None:
        if hasattr(self, "_model"):
            self._model.close()
