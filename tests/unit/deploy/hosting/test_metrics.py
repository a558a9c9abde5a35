"""Sinks of a hosted handler's figures."""

from __future__ import annotations

import pytest

from deploy.hosting.metrics import Prometheus
from handlers.stages import Dimension


def test_prometheus_has_the_names_that_torchserve_shows() -> None:
    prometheus = pytest.importorskip("prometheus_client", reason="prometheus_client is an extra")
    sink, registry = Prometheus(), prometheus.CollectorRegistry()
    registry.register(sink)
    labels = [Dimension("ModelName", "m"), Dimension("Outcome", "ok")]
    sink.add_metric("handler_items", 2, "count", dimensions=labels)
    sink.add_metric("handler_items", 3, "count", dimensions=labels)
    for value in (1, 0):
        sink.add_metric("handler_fallback", value, "count", metric_type="gauge")
    page = prometheus.generate_latest(registry).decode()
    assert 'handler_items{ModelName="m",Outcome="ok"} 5.0' in page
    assert "handler_fallback 0.0" in page
    assert page.count("# TYPE") == 2
