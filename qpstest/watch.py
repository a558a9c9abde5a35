"""What the server's side shows of a measurement: stages, memory, processor time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from handlers.errors import KitError
from qpstest import processes, server_metrics
from qpstest.options import Server
from qpstest.processes import Usage
from qpstest.server_metrics import Sample

RUNTIME_FIELDS = {"runtime": "name", "precision": "precision", "fallback": "fallback"}


@dataclass(frozen=True)
class Observed:
    """Means per request in milliseconds, None or empty where the server does not say.

    Attributes:
        stages_ms: "queue" and the handler's stages.
        server_ms: from arrival to the answer's sending.
        items_per_batch: as the workers counted.
        rss_mb: resident MB of 10^6 bytes of each worker, and of their GPU server if any.
        cpu_ms: processor time of the same.
        front_cpu_ms: processor time of the front end.
        replaced: whether a worker is another than before.
        restarted: whether the workers are others than at the end of the last measurement.
        counts: since then: "inferences", "executions" (batches) and "succeeded" requests.
    """

    stages_ms: dict[str, float] = field(default_factory=dict)
    server_ms: float | None = None
    items_per_batch: float | None = None
    rss_mb: tuple[float, ...] = ()
    cpu_ms: float | None = None
    front_cpu_ms: float | None = None
    replaced: bool = False
    restarted: bool = False
    counts: dict[str, int] = field(default_factory=dict)


class Watch(Protocol):
    """What looks at the server before and after."""

    def begin(self) -> None: ...
    def end(self, refused: int, sent: int) -> Observed: ...
    def look(self) -> Observed: ...
    def runtime(self, answer: bytes) -> dict[str, Any]: ...


class Unwatched:
    """Of a server that says nothing about itself."""

    def begin(self) -> None:
        """There are no counters."""

    def end(self, refused: int, sent: int) -> Observed:
        return Observed()

    def look(self) -> Observed:
        return Observed()

    def runtime(self, answer: bytes) -> dict[str, Any]:
        """Runtime, precision and fallback, where the answer names them."""
        named = named_runtime(answer)
        return {key: named.get(of) for key, of in RUNTIME_FIELDS.items()}


class ServerWatch:
    """Looks at TorchServe before and after.

    Args:
        server: where it is.
        model: the model's name.
    """

    def __init__(self, server: Server, model: str):
        self._server = server
        self._model = model
        self._page: Mapping[Sample, float] | None = None
        self._usage = self._look()
        self._stand_in: str | None = None
        self._restarted = False

    def begin(self) -> None:
        """Note where all counters stand."""
        self._page = self._scrape(settled=False)
        before, self._usage = self._usage, self._look()
        self._restarted = bool(before.pids and self._usage.pids) and before.pids != self._usage.pids

    def end(self, refused: int, sent: int) -> Observed:
        """What happened since ``begin``.

        Args:
            refused: requests that did not get into the queue.
            sent: all requests since, should the server not count them.
        """
        before, self._usage = self._usage, self._look()
        after = self._scrape(settled=True) or {}
        self._stand_in = server_metrics.fallback_runtime(after, self._model)
        times = server_metrics.between(self._page or {}, after, self._model, refused)
        answered = round(times.requests or sent - refused)
        stages = {"queue": times.queue} if times.queue is not None else {}
        now = self._usage
        return Observed(
            stages_ms={**stages, **times.stages} if self._page is not None else {},
            server_ms=times.inside if self._page is not None else None,
            items_per_batch=times.batch if self._page is not None else None,
            rss_mb=tuple(round(size / 1e6, 1) for size in now.resident),
            cpu_ms=processes.per_request(before.workers, now.workers, answered),
            front_cpu_ms=processes.per_request(before.front, now.front, answered),
            replaced=bool(before.pids and now.pids) and before.pids != now.pids,
            restarted=self._restarted,
            counts={
                "inferences": round(sum(times.items.values())),
                "executions": round(times.batches),
                "succeeded": round(times.items.get("ok", 0.0)),
            }
            if times.batches
            else {},
        )

    def look(self) -> Observed:
        """Memory alone, where nothing was measured."""
        return Observed(rss_mb=tuple(round(size / 1e6, 1) for size in self._look().resident))

    def runtime(self, answer: bytes) -> dict[str, Any]:
        """Runtime, precision and fallback, as an answer or else the model's description says."""
        named: Any = named_runtime(answer)
        if not named:
            server = self._server
            named = server_metrics.description(
                server.management_url, self._model, server.management_token
            ).get("runtime")
        named = named if isinstance(named, dict) else {}
        fallback = named.get("fallback")
        if self._stand_in and not fallback:
            fallback = f"{self._stand_in} serves in place of the accelerated runtime"
        return {
            "runtime": named.get("name"),
            "precision": named.get("precision"),
            "fallback": fallback,
        }

    def _look(self) -> Usage:
        server = self._server
        with contextlib.suppress(KitError):
            status = server_metrics.model_status(
                server.management_url, self._model, server.management_token
            )
            return processes.usage(worker.pid for worker in status.workers)
        return processes.usage(())

    def _scrape(self, settled: bool) -> dict[Sample, float] | None:
        with contextlib.suppress(KitError):
            take = server_metrics.scrape_settled if settled else server_metrics.scrape
            return take(self._server.metrics_url)
        return None


def named_runtime(answer: bytes) -> dict[str, Any]:
    """The runtime that an answer names; empty where it names none."""
    with contextlib.suppress(ValueError, AttributeError):
        named = json.loads(answer).get("runtime")
        return named if isinstance(named, dict) else {}
    return {}
