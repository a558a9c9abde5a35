"""Spans of requests and of the handler's stages, sent by OpenTelemetry where it is asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from handlers.context import Context
from handlers.errors import RuntimeMissing
from handlers.stages import Span

VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""Environment variable: the collector's address, for OTLP over HTTP. Where it is not set, nothing
is traced. The SDK reads its other variables (``OTEL_...``) itself."""

RECEIVED = "x-received-ns"
"""A request's header of the server's own: when it was there in whole, ns since 1970."""

TRACE_ID = "X-Trace-Id"
NAME = "torchserve-repack"


def asked() -> bool:
    return bool(os.environ.get(VARIABLE))


@cache
def _tracer() -> Any:
    """One for all models of this process; not OpenTelemetry's global one, which is the host's.

    Raises:
        RuntimeMissing: the packages are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as e:
        raise RuntimeMissing("opentelemetry", e) from None
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: NAME}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer(NAME)


class Traced:
    """The spans of one batch's requests, from now until ``end``.

    Each request has a span of its own, a child of its ``traceparent`` where it has one, with the
    wait before the batch and the batch's stages as children: a batch's stage is one piece of work
    for all of its requests. The answers have the header ``X-Trace-Id``.

    Args:
        about: attributes of every request's span.
        count: requests in the batch.
    """

    def __init__(self, context: Context, count: int, about: Mapping[str, Any]):
        from opentelemetry.trace import SpanKind, format_trace_id
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        begin = time.time_ns()
        self._spans = []
        for i in range(count):
            headers = context.get_all_request_header(i)
            carrier = {name.lower(): value for name, value in headers.items()}
            received = _received(carrier, begin)
            span = _tracer().start_span(
                f"predict {context.model_name}",
                TraceContextTextMapPropagator().extract(carrier),
                SpanKind.SERVER,
                {**about, "kit.batch": count},
                start_time=received or begin,
            )
            self._spans.append(span)
            if received:
                _child(span, "wait", Span(received, begin))
            trace_id = format_trace_id(span.get_span_context().trace_id)
            context.set_response_header(i, TRACE_ID, trace_id)

    def end(self, stages: Mapping[str, Span], statuses: Sequence[int]) -> None:
        """Sends the spans.

        Args:
            stages: by their names.
            statuses: of the answers, HTTP's.
        """
        from opentelemetry.trace import StatusCode

        for span, status in zip(self._spans, statuses, strict=True):
            for stage, times in stages.items():
                _child(span, stage, times)
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_status(StatusCode.ERROR)
            span.end()


def begun(context: Context, count: int, about: Mapping[str, Any]) -> Traced | None:
    """A batch's spans; None where nothing is traced."""
    return Traced(context, count, about) if asked() else None


def require() -> None:
    """Raises ``RuntimeMissing`` where tracing is asked for and cannot be had."""
    if asked():
        _tracer()


def _received(carrier: Mapping[str, Any], begin: int) -> int | None:
    told = str(carrier.get(RECEIVED, ""))
    return int(told) if told.isdecimal() and len(told) == 19 and int(told) <= begin else None


def _child(span: Any, name: str, times: Span) -> None:
    from opentelemetry.trace import set_span_in_context

    child = _tracer().start_span(name, set_span_in_context(span), start_time=times.begin)
    if times.busy_ms:
        child.set_attribute("kit.busy_ms", round(times.busy_ms, 3))
    child.end(times.end)
