"""How long queued work takes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Milliseconds of a device's work by stage: by its own events, where it has a queue."""

    def __init__(self, device: torch.device):
        self._queues = device.type == "cuda"
        self._marks: list[tuple[str, Any, Any]] = []

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Counts what is queued in the block."""
        begin = self._now()
        try:
            yield
        finally:
            self._marks.append((stage, begin, self._now()))

    def read(self) -> dict[str, float]:
        """Milliseconds of each stage; waits for the last of them."""
        found: Counter[str] = Counter()
        for stage, begin, end in self._marks:
            if self._queues:
                end.synchronize()
            found[stage] += begin.elapsed_time(end) if self._queues else (end - begin) * 1e3
        return dict(found)

    def _now(self) -> Any:
        if not self._queues:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
