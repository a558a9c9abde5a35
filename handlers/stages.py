"""How long each stage of a handler takes, reported as the server's metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from handlers.context import Context

STAGES = ("decode", "preprocess", "infer", "postprocess", "encode")

REPORT_EVERY_S = 0.25
"""Each metric is a log line that the server parses: a busy worker reports sums, not every batch."""


class Dimension(NamedTuple):
    """Name and value of one metric dimension, as TorchServe reads them."""

    name: str
    value: str


class Stages:
    """Adds up milliseconds per stage and outcomes per item, and reports them as counters.

    Stage times are summed over the items of a batch; where items are decoded side by side, so are
    their times.
    """

    def __init__(self) -> None:
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
            self._ms[stage] += (time.perf_counter() - begin) * 1e3  # type: ignore[assignment]

    def count(self, statuses: list[int]) -> None:
        """Counts one answered batch by the HTTP status of its items."""
        self._batches += 1
        for status in statuses:
            kind = "ok" if status < 400 else "rejected" if status < 500 else "failed"
            self._outcomes[kind] += 1

    def report(self, context: Context) -> None:
        """Hands the sums to the server, at most every ``REPORT_EVERY_S`` seconds."""
        now = time.monotonic()
        if now - self._reported < REPORT_EVERY_S:
            return
        self._reported = now

        def add(name: str, value: float, unit: str, *last: Dimension) -> None:
            common = [Dimension("ModelName", context.model_name), Dimension("Level", "Model")]
            context.metrics.add_metric(name, value, unit, dimensions=[*common, *last])

        for stage, ms in self._ms.items():
            add("handler_stage_milliseconds", round(ms, 3), "ms", Dimension("Stage", stage))
        for outcome, items in self._outcomes.items():
            add("handler_items", items, "count", Dimension("Outcome", outcome))
        add("handler_batches", self._batches, "count")
        self._ms.clear()
        self._outcomes.clear()
        self._batches = 0
