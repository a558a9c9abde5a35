"""One process of a Ray cluster that has a model, or several in turns.

It imports nothing of ``handlers``: the archive brings its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet, finalize

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


@dataclass(frozen=True, eq=False)
class Held:
    """A model for as long as somebody has this."""

    model: Model


class Process(ABC):
    """Answers batches in a thread of its own: the event loop stays free for health checks."""

    def __init__(self, served: Served):
        bind_to_node()
        self._served = served
        self._began: float | None = None
        self._thread = ThreadPoolExecutor(1, "model")
        self._batched.set_max_batch_size(served.batch_size)
        self._batched.set_batch_wait_timeout_s(served.max_batch_delay / 1e3)

    @abstractmethod
    async def held(self) -> Held:
        """The model that the current requests ask."""

    async def answer(self, request: Request) -> Answer:
        """One request's answer, computed together with others that came meanwhile."""
        answer: Answer = await self._batched(request)
        return answer

    async def describe(self) -> dict[str, Any]:
        """What is loaded, as the archive's handler says it."""
        return (await self.held()).model.describe()

    def check_health(self) -> None:
        """Ray Serve replaces a replica whose check raises."""
        began, most = self._began, self._served.response_timeout
        if began is not None and time.monotonic() - began > most:
            raise RuntimeError(f"a batch has not ended in {most} s")

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def _batched(self, requests: list[Request]) -> list[Answer]:
        held = await self.held()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._timed, held, requests)

    def _timed(self, held: Held, requests: list[Request]) -> list[Answer]:
        self._began = time.monotonic()
        try:
            return held.model.answer(requests)
        finally:
            self._began = None


class Replica(Process):
    """Answers one archive; Ray Serve asks it."""

    def __init__(self, served: Served):
        super().__init__(served)
        self._held = Held(loaded(served, RayMetrics()))

    async def held(self) -> Held:
        return self._held

    def __del__(self) -> None:
        if hasattr(self, "_held"):
            self._held.model.close()


class Shared(Process):
    """Answers whatever archive a request names (``archive_id``).

    Args:
        most: archives that are loaded at once; for another one, that which was asked longest ago is
            given up, once its batch in work is answered.
    """

    def __init__(self, served: Served, most: int):
        super().__init__(served)
        self._loaded = WeakSet[Held]()
        metrics = RayMetrics()

        async def load(archive: str) -> Held:
            sha256, name, path = archive.split(":", 2)
            asked = replace(served, path=path, sha256=sha256, name=name)
            loop = asyncio.get_running_loop()
            held = Held(await loop.run_in_executor(None, loaded, asked, metrics))
            finalize(held, held.model.close)
            self._loaded.add(held)
            return held

        self._multiplexed = serve.multiplexed(max_num_models_per_replica=most)(load)

    async def held(self) -> Held:
        held: Held = await self._multiplexed(serve.get_multiplexed_model_id())
        return held

    def __del__(self) -> None:
        for held in tuple(getattr(self, "_loaded", ())):
            held.model.close()


def archive_id(path: Path, sha256: str, name: str) -> str:
    """How a ``Shared`` is asked for an archive."""
    return f"{sha256}:{name}:{path.absolute()}"


def loaded(served: Served, metrics: RayMetrics) -> Model:
    """The model of an archive that lies on this node.

    Raises:
        HostError: it does not, or another one does; or it cannot be loaded.
    """
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
    return Model(
        path,
        name=served.name,
        gpu=0 if served.gpu else None,
        threads=served.threads,
        batch_size=served.batch_size,
        metrics=metrics,
    )
