"""Where a hosted handler's figures go: to memory, and from there to Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

Labels = tuple[tuple[str, str], ...]


class Sink(Protocol):
    """What takes a handler's figures; the dimensions have a ``name`` and a ``value``."""

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: str | None = None,
        dimensions: Sequence[Any] = (),
        **kind: Any,
    ) -> None: ...


class Memory:
    """Sums up counters and keeps gauges, by name and labels. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, Labels], float] = {}

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: str | None = None,
        dimensions: Sequence[Any] = (),
        **kind: Any,
    ) -> None:
        key = (name, tuple((d.name, d.value) for d in dimensions))
        with self._lock:
            before = 0.0 if kind.get("metric_type") == "gauge" else self._values.get(key, 0.0)
            self._values[key] = before + value

    def values(self) -> dict[tuple[str, Labels], float]:
        """All values so far, by name and labels."""
        with self._lock:
            return dict(self._values)


class Prometheus(Memory):
    """A collector for ``prometheus_client``: ``REGISTRY.register(Prometheus())``.

    Names and labels are those of the page that TorchServe shows, so the same dashboards read both;
    ``prometheus_client`` would call a counter ``..._total``, so they go out untyped.
    """

    def collect(self) -> Iterator[Any]:
        """The families, as ``prometheus_client`` asks for them."""
        from prometheus_client.metrics_core import UntypedMetricFamily

        families: dict[str, Any] = {}
        for (name, labels), value in self.values().items():
            if name not in families:
                keys = [key for key, _ in labels]
                families[name] = UntypedMetricFamily(name, name.replace("_", " "), labels=keys)
            families[name].add_metric([text for _, text in labels], value)
        yield from families.values()
