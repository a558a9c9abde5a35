"""Traces: off unless asked for, and never silently nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from handlers import tracing
from handlers.context import LocalContext
from handlers.errors import RuntimeMissing
from handlers.stages import Stages
from tests.support import made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Traces are asked for, and no OpenTelemetry is there."""
    monkeypatch.setenv(tracing.VARIABLE, "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    tracing._tracer.cache_clear()
    yield
    tracing._tracer.cache_clear()


def test_a_missing_package_is_one_line_that_says_what_to_install(asked: None) -> None:
    with pytest.raises(RuntimeMissing) as missing:
        tracing.require()
    assert str(missing.value).endswith("pip install opentelemetry-exporter-otlp-proto-http")


def test_nothing_is_traced_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        monkeypatch.delenv(tracing.VARIABLE, raising=False)
        if value is not None:
            monkeypatch.setenv(tracing.VARIABLE, value)
        tracing.require()
        assert tracing.begun(LocalContext(made.ROOT), 1, {}) is None


def test_a_stage_spans_all_of_its_work_and_counts_what_it_did() -> None:
    stages = Stages()
    before = time.time_ns()
    for _ in range(2):
        with stages.measure("infer"):
            time.sleep(0.01)
        time.sleep(0.03)
    span = stages.spans["infer"]
    assert before <= span.begin < span.end <= time.time_ns()
    assert (span.end - span.begin) / 1e6 > 45 > span.busy_ms >= 20
    stages.add("gpu", 10)  # something else has measured it
    assert stages.spans["gpu"].end - stages.spans["gpu"].begin == 10_000_000
