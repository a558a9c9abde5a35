"""How long each stage of a handler takes, reported as the server's metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from handlers.context import Context, LocalMetrics

STAGES = ("decode", "gpu_server", "preprocess", "infer", "postprocess", "encode")

REPORT_EVERY_S = 0.05
"""Each metric is a log line that the server parses: a busy worker reports sums, not every batch."""


class Dimension(NamedTuple):
    """Name and value of one metric dimension, as TorchServe reads them."""

    name: str
    value: str


class Span(NamedTuple):
    """When a stage began and ended, ns since 1970, and how long it worked in between."""

    begin: int
    end: int
    busy_ms: float = 0.0


class Stages:
    """Adds up milliseconds per stage and outcomes per item, and reports them as counters.

    A stage's time is the clock's, for the whole batch: items decoded side by side count once. Of
    work that a GPU server did for several workers' items at once, each has its share; "gpu_server"
    is the time with it beyond that.

    Attributes:
        spans: when each stage of a batch was at work; whoever reads it empties it before.
    """

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self._ms: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._batches = 0
        self._reported = 0.0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Times the block as part of ``stage``."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, (time.perf_counter() - begin) * 1e3)

    def add(self, stage: str, ms: float) -> None:
        """Counts milliseconds that something else has measured."""
        self._ms[stage] += ms  # type: ignore[assignment]
        now = time.time_ns()
        before = self.spans.get(stage) or Span(now - int(ms * 1e6), now)
        self.spans[stage] = Span(before.begin, now, before.busy_ms + ms)

    def count(self, statuses: list[int]) -> None:
        """Counts one answered batch by the HTTP status of its items."""
        self._batches += 1
        for status in statuses:
            kind = "ok" if status < 400 else "rejected" if status < 500 else "failed"
            self._outcomes[kind] += 1

    def report(self, context: Context, runtime: str, fallback: bool) -> None:
        """Hands the sums to the server, at most every ``REPORT_EVERY_S`` seconds.

        Args:
            runtime: what runs the model.
            fallback: whether it runs in place of what the archive was packed for.
        """
        now = time.monotonic()
        if now - self._reported < REPORT_EVERY_S:
            return
        self._reported = now

        def add(name: str, value: float, unit: str, *last: Dimension, **kind: Any) -> None:
            common = [Dimension("ModelName", context.model_name), Dimension("Level", "Model")]
            context.metrics.add_metric(name, value, unit, dimensions=[*common, *last], **kind)

        for stage, ms in self._ms.items():
            add("handler_stage_milliseconds", round(ms, 3), "ms", Dimension("Stage", stage))
        for outcome, items in self._outcomes.items():
            add("handler_items", items, "count", Dimension("Outcome", outcome))
        add("handler_batches", self._batches, "count")
        gauge = _gauge(context)
        add("handler_fallback", int(fallback), "count", Dimension("Runtime", runtime), **gauge)
        self._ms.clear()
        self._outcomes.clear()
        self._batches = 0


def _gauge(context: Context) -> dict[str, Any]:
    """TorchServe's argument that makes a metric a gauge; its counters are the default."""
    if isinstance(context.metrics, LocalMetrics):
        return {"metric_type": "gauge"}
    from ts.metrics.metric_type_enum import MetricTypes

    return {"metric_type": MetricTypes.GAUGE}
