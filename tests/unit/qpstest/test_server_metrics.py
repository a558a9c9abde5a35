from __future__ import annotations

import pytest

from qpstest.server_metrics import between, fallback_runtime, parse

PAGE = """# HELP handler_items counts
# TYPE handler_items counter
handler_items{{ModelName="fd1",Level="Model",Outcome="ok",Hostname="vm",}} {ok}
handler_items{{ModelName="fd1",Level="Model",Outcome="rejected",Hostname="vm",}} {rejected}
handler_items{{ModelName="other",Level="Model",Outcome="ok",Hostname="vm",}} 777.0
handler_batches{{ModelName="fd1",Level="Model",Hostname="vm",}} {batches}
handler_stage_milliseconds{{ModelName="fd1",Level="Model",Stage="infer",Hostname="vm",}} {infer}
handler_stage_milliseconds{{ModelName="fd1",Level="Model",Stage="decode",Hostname="vm",}} {decode}
handler_stage_milliseconds{{ModelName="other",Level="Model",Stage="infer",Hostname="vm",}} 9e9
handler_fallback{{ModelName="other",Level="Model",Runtime="torchscript",Hostname="vm",}} 1.0
ts_queue_latency_microseconds{{model_name="fd1",model_version="default",hostname="vm",}} {queue}
ts_inference_latency_microseconds{{model_name="fd1",model_version="default",hostname="vm",}} {all}
ts_inference_requests_total{{model_name="fd1",model_version="default",hostname="vm",}} {requests}
"""
BEFORE = {
    "ok": 10.0, "rejected": 1.0, "batches": 5.0, "infer": 500.0, "decode": 50.0,
    "queue": 1e6, "all": 2e6, "requests": 11.0,
}  # fmt: skip
AFTER = {
    "ok": 30.0, "rejected": 5.0, "batches": 17.0, "infer": 900.0, "decode": 110.0,
    "queue": 1.048e6, "all": 2.24e6, "requests": 41.0,
}  # fmt: skip


def test_means_by_hand() -> None:
    times = between(parse(PAGE.format(**BEFORE)), parse(PAGE.format(**AFTER)), "fd1", refused=6)
    assert times.stages == {"decode": 3.0, "infer": 20.0}
    assert list(times.stages) == ["decode", "infer"]
    assert times.items == {"ok": 20.0, "rejected": 4.0}
    assert times.batch == 2.0
    assert times.queue == 2.0  # 48 ms over 24 requests that reached the queue
    assert times.inside == 10.0
    assert times.requests == 24.0


def test_counters_that_appear_later_begin_at_zero() -> None:
    times = between({}, parse(PAGE.format(**AFTER)), "fd1")
    assert times.stages["infer"] == 30.0


def test_a_server_that_began_anew_gives_no_negative_times() -> None:
    times = between(parse(PAGE.format(**AFTER)), parse(PAGE.format(**BEFORE)), "fd1")
    assert times.stages == {"decode": 5.0, "infer": 50.0}


def test_nothing_happened() -> None:
    page = parse(PAGE.format(**AFTER))
    times = between(page, page, "fd1")
    assert (times.stages, times.queue, times.inside, times.batch) == ({}, None, None, None)


def test_fallback() -> None:
    page = parse(PAGE.format(**AFTER))
    assert fallback_runtime(page, "other") == "torchscript"
    assert fallback_runtime(page, "fd1") is None


@pytest.mark.parametrize(
    "line", ["", "# TYPE a counter", "{} 3", "a{b=} ", "a words", 'a{b="c"} NaNs', "\x00"]
)
def test_lines_of_other_forms_are_passed_over(line: str) -> None:
    assert parse(line) == {}


def test_label_values_may_hold_braces_and_quotes() -> None:
    assert parse('a{b="x\\"}{y",c="1"} 4') == {("a", (("b", 'x\\"}{y'), ("c", "1"))): 4.0}
