from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpstest import stats
from qpstest.load import Reply, Tally

FINITE = st.floats(min_value=0, max_value=1e6, allow_nan=False)


def tally_of(latencies: list[float], errors: dict[str, int] | None = None) -> Tally:
    tally = Tally()
    for seconds in latencies:
        tally.add(Reply("", send=0.001, wait=0.002, receive=0.003), seconds, 0.0)
    tally.errors = Counter(errors or {})
    return tally


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7.0], 0.99, 7.0),
        ([1.0, 2.0], 0.5, 1.5),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.5, 3.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.9, 4.6),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.0, 1.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 1.0, 5.0),
        ([float(i) for i in range(101)], 0.95, 95.0),
    ],
)
def test_percentile_by_hand(values: list[float], share: float, expected: float) -> None:
    assert stats.percentile(values, share) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=50), st.floats(min_value=0, max_value=1))
def test_percentile_is_numpys(values: list[float], share: float) -> None:
    ours = stats.percentile(sorted(values), share)
    assert ours == pytest.approx(float(np.percentile(values, share * 100)), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=50))
def test_latencies_are_in_order(values: list[float]) -> None:
    found = stats.latency_ms(values)
    ordered = [found[name] for name in ("p50", "p90", "p95", "p99", "max")]
    assert ordered == sorted(ordered, key=lambda v: v or 0.0)
    assert min(values) * 1e3 - 0.001 <= (found["mean"] or 0.0) <= max(values) * 1e3 + 0.001


def test_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        stats.percentile([], 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.percentile([1.0], 95)


def test_only_successes_count() -> None:
    found = stats.summarise(tally_of([0.1, 0.2, 0.3], {"overload": 5, "400": 2}), 2.0)
    assert found["requests"] == 10
    assert found["succeeded"] == 3
    assert found["throughput"] == 1.5
    assert found["latency_ms"]["mean"] == pytest.approx(200)
    assert found["errors"] == {"400": 2, "overload": 5}
    assert found["client_ms"] == {"send": 1.0, "wait": 2.0, "receive": 3.0}


def test_nothing_succeeded() -> None:
    found = stats.summarise(tally_of([], {"timeout": 4}), 0.0)
    assert found["throughput"] == 0.0
    assert found["latency_ms"]["p99"] is None
    assert found["client_ms"] is None


@pytest.mark.parametrize(
    ("throughputs", "expected"),
    [
        ([100.0, 100.0], False),
        ([100.0, 105.0, 95.0], True),
        ([100.0, 105.1, 94.9], False),
        ([1.0, 100.0, 101.0, 99.0], True),
        ([0.0, 0.0, 0.0], False),
    ],
)
def test_stable(throughputs: list[float], expected: bool) -> None:
    assert stats.is_stable(throughputs) is expected


def test_spread_of_nothing_done_is_infinite() -> None:
    assert stats.spread([0.0, 0.0]) == math.inf


def test_median_round_is_reported() -> None:
    def run(mode: int, throughput: float) -> dict[str, Any]:
        latency = {"p50": throughput, "p95": 2.0, "p99": 3.0}
        return {"mode": mode, "concurrency": 1, "throughput": throughput, "latency_ms": latency,
                "notes": []}  # fmt: skip

    found = stats.median_rounds([run(2, 5.0), run(3, 9.0), run(2, 7.0), run(2, 0.0)])
    latencies = {"p50": [5.0, 7.0, 0.0], "p95": [2.0] * 3, "p99": [3.0] * 3}
    notes = ["no right answer in round 3 of 3"]
    assert found == [
        {**run(2, 5.0), "rounds": [5.0, 7.0, 0.0], "rounds_ms": latencies, "notes": notes},
        run(3, 9.0),
    ]
    assert stats.median_rounds([run(2, 4.0), run(2, 2.0)])[0]["throughput"] == 2.0


def test_messages_are_kept_but_not_all() -> None:
    tally = Tally()
    for i in range(20):
        tally.add(Reply("400", f"reason {i % 10}"), 0.1, 0.0)
    assert tally.errors == {"400": 20}
    assert len(tally.messages["400"]) == 5
    other = Tally()
    other.add(Reply("400", "reason 0"), 0.1, 0.0)
    tally.merge(other)
    assert tally.messages["400"]["reason 0"] == 3


def answered(gaps: list[float], latency: float = 0.02) -> Tally:
    """A caller's answers, each so many seconds after the last."""
    tally, now = Tally(), 100.0
    for gap in gaps:
        now += gap
        tally.add(Reply(""), max(gap, latency), now)
    return tally


def test_a_standstill_is_a_rare_gap_far_above_p99() -> None:
    found = stats.standstill(answered([*[0.02] * 200, 1.0, *[0.02] * 200, 1.0, *[0.02] * 50]))
    assert found is not None
    assert (found.times, found.longest, found.total) == (2, 1.0, 2.0)
    assert found.share == pytest.approx(2 / 11, rel=0.01)


def test_slow_answers_are_no_standstill() -> None:
    assert stats.standstill(answered([0.02] * 500)) is None
    one_in_fifty = [0.3 if i % 50 == 0 else 0.02 for i in range(500)]
    assert stats.standstill(answered(one_in_fifty)) is None
    assert stats.standstill(answered([2.0] * 30)) is None  # volumes take seconds each
    assert stats.standstill(answered([0.02, 1.0])) is None  # too few to tell


def test_callers_that_all_wait_for_one_gap_show_it() -> None:
    """16 callers: the gap is 8 % of their latencies, so p99 holds it, and still it is said."""
    tally = Tally()
    for i in range(200):
        now = 100 + i * 0.002 + (1.0 if i >= 100 else 0.0)
        tally.add(Reply(""), 1.02 if 100 <= i < 116 else 0.02, now)
    found = stats.standstill(tally)
    assert found is not None
    assert found.times == 1


def test_stability_is_of_throughput_and_of_latency() -> None:
    assert stats.is_stable([100.0, 101.0, 99.0], [20.0, 20.5, 20.0])
    assert not stats.is_stable([100.0, 101.0, 99.0], [20.0, 30.0, 20.0])


def test_lateness_is_reported_for_open_loops_only() -> None:
    assert "late" not in stats.summarise(tally_of([0.1]), 1.0)
    tally = tally_of([0.1, 0.2])
    tally.lateness.extend([0.0001, 0.02])
    tally.late = 1
    found = stats.summarise(tally, 1.0)
    assert (found["late"], found["unsent"], found["cut"]) == (1, 0, False)
    assert found["lateness_ms"]["max"] == 20.0
    assert found["latency_ms"]["sd"] == pytest.approx(50.0)
