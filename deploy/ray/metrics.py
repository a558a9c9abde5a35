"""Figures of all processes of a cluster: through Ray's own metrics, and on one page."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

FAMILY = re.compile(r"^(# (?:HELP|TYPE) )?ray_((?:handler|ingress)_\w+?)(?:_total)?(?=[ {])")
"""The kit's own figures; Serve's are on Ray's pages. Ray adds the prefix, and counters' ending."""

OF_RAY = re.compile(r'(?:otel_scope_\w+|Component|SessionName|Version)="[^"]*",?')
"""Labels that say nothing of a model."""


class Tag(NamedTuple):
    """Name and value of one dimension of a figure."""

    name: str
    value: str


class RayMetrics:
    """A handler's sink: Ray's agent on each node shows the figures to Prometheus."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: str | None = None,
        dimensions: Sequence[Any] = (),
        **kind: Any,
    ) -> None:
        tags = {d.name: str(d.value) for d in dimensions}
        is_gauge = kind.get("metric_type") == "gauge"
        if name not in self._known:
            from ray.util import metrics

            made = metrics.Gauge if is_gauge else metrics.Counter
            self._known[name] = made(name, name.replace("_", " "), tuple(tags))
        if is_gauge:
            self._known[name].set(value, tags)
        elif value > 0:
            self._known[name].inc(value, tags)


def page() -> bytes:
    """The figures of every node, in Prometheus' text format."""
    import ray

    pages = [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in ray.nodes()
        if node["Alive"]
    ]
    with ThreadPoolExecutor(len(pages)) as pool:
        return joined(pool.map(_fetched, pages))


def joined(pages: Iterable[str]) -> bytes:
    """One page of several nodes' pages: the kit's own figures, under the names that TorchServe's
    page has, each with its head once."""
    heads: dict[str, dict[str, None]] = {}
    samples: dict[str, list[str]] = {}
    for line in (line for text in pages for line in text.splitlines()):
        found = FAMILY.match(line)
        if found is None:
            continue
        named = FAMILY.sub(r"\1\2", line)
        if line.startswith("#"):
            heads.setdefault(found[2], {})[named] = None
        else:
            samples.setdefault(found[2], []).append(OF_RAY.sub("", named))
    lines = [line for name in samples for line in (*heads.get(name, {}), *samples[name])]
    return "".join(f"{line}\n" for line in lines).encode()


def _fetched(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=3) as answer:  # noqa: S310
            found: str = answer.read().decode("utf-8", "replace")
            return found
    except OSError:  # a node that has just been lost
        return ""
