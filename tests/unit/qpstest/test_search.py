"""The search for the highest rate, on a server whose answers are calculated."""

from __future__ import annotations

import random
from typing import Any

import pytest

from handlers.errors import KitError
from qpstest import search
from qpstest.options import Limit

LIMIT = Limit("p99", 50.0)


class Queue:
    """A server of which latency grows as 10 ms / (1 - rate / most), with noise."""

    def __init__(self, most: float, noise: float = 0.0, seed: int = 0):
        self.most = most
        self.noise = noise
        self.dice = random.Random(seed)  # noqa: S311
        self.runs: list[tuple[float, bool]] = []

    def measure(self, rate: float, whole: bool) -> dict[str, Any]:
        self.runs.append((rate, whole))
        load = rate / self.most
        ms = 10 / (1 - load) if load < 1 else 1000.0
        ms *= 1 + self.dice.uniform(-self.noise, self.noise)
        return run(rate, ms, min(rate, self.most))


def run(rate: float, ms: float | None, throughput: float, **more: Any) -> dict[str, Any]:
    return {"rate": rate, "latency_ms": {"p99": ms}, "throughput": throughput, "errors": {},
            "requests": 100, **more}  # fmt: skip


@pytest.mark.parametrize("guess", [20.0, 100.0, 500.0])
def test_the_highest_rate_is_found_and_confirmed(guess: float) -> None:
    server = Queue(100.0)
    found = search.highest(server.measure, LIMIT, guess)
    assert found.rate == pytest.approx(80.0, rel=0.04)  # 10 / (1 - 0.8) = 50
    assert found.rate <= 80.0
    assert server.runs[-1] == (found.rate, True)
    assert found.run["rate"] == found.rate
    assert "p99 was" in found.why
    assert len(server.runs) <= 15


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_confirm_a_rate_that_was_lucky(seed: int) -> None:
    found = search.highest(Queue(100.0, 0.1, seed).measure, LIMIT, 100.0)
    assert 70 < found.rate < 84


def test_inside_a_range() -> None:
    found = search.highest(Queue(100.0).measure, LIMIT, 0.0, (40.0, 60.0))
    assert found.rate == 60.0
    assert found.why == "no higher rate was tried"
    found = search.highest(Queue(100.0).measure, LIMIT, 0.0, (10.0, 200.0))
    assert found.rate == pytest.approx(80.0, rel=0.05)
    found = search.highest(Queue(100.0).measure, LIMIT, 0.0, (90.0, 200.0))
    assert (found.rate, found.run["rate"]) == (0.0, 90.0)


def test_a_limit_that_no_rate_meets_names_the_closest() -> None:
    found = search.highest(Queue(100.0).measure, Limit("p99", 5.0), 100.0)
    assert found.rate == 0.0
    assert found.run["rate"] == pytest.approx(2.0)
    assert found.why == "at 2/s p99 was 10.2 ms"
    with pytest.raises(KitError, match="answered nothing"):
        search.highest(Queue(100.0).measure, LIMIT, 0.0)


def test_what_does_not_meet_a_limit() -> None:
    assert search.verdict(run(10, 49.0, 10), LIMIT) is None
    assert search.verdict(run(10, 51.0, 10), LIMIT) == "p99 was 51 ms"
    assert search.verdict(run(10, 40.0, 10, cut=True), LIMIT) == "p99 was 40 ms"
    assert search.verdict(run(10, None, 0), LIMIT) == "no right answer came"
    assert search.verdict(run(10, 40.0, 9), LIMIT) == "9/s were answered of 10/s"
    failed = run(10, 40.0, 10, errors={"overload": 2, "400": 1})
    assert search.verdict(failed, LIMIT) == "3 of 100 requests failed (overload)"
