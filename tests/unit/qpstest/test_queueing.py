"""The simulated queue against what queueing theory says, and the plan made of it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from handlers.errors import KitError
from qpstest import capacity, histograms, stats
from qpstest.arrivals import Arrivals
from qpstest.options import Limit
from qpstest.queueing import Machine, simulate


def arrivals(rate: float, count: int, kind: str = "poisson", seed: int = 3) -> list[float]:
    return [d for d, n in Arrivals(kind, rate, count=count, seed=seed).schedule() if n >= 0]


def exponential(mean: float) -> tuple[list[float], list[float]]:
    shares = (np.arange(2000) + 0.5) / 2000
    return list(-mean * np.log(1 - shares)), [1.0] * 2000


def test_one_worker_is_mm1() -> None:
    """Mean time in an M/M/1 queue is 1 / (mu - lambda), and the times are exponential."""
    work, weights = exponential(0.01)
    found = simulate(Machine(work, weights, 0.0, (1.0,)), arrivals(70, 60_000), 1)
    assert found.ms("mean") == pytest.approx(1e3 / (100 - 70), rel=0.06)
    assert found.ms("p95") == pytest.approx(3.0 * 1e3 / (100 - 70), rel=0.08)
    assert found.busy == pytest.approx(0.7, rel=0.03)


def test_two_workers_are_mm2() -> None:
    """Mean time in an M/M/2 queue is 1 / (mu (1 - rho^2))."""
    work, weights = exponential(0.01)
    machine = Machine(work, weights, 0.005, (1.0, 1.0))
    found = simulate(machine, arrivals(140, 60_000), 1)
    assert found.ms("mean") == pytest.approx(10 / (1 - 0.49) + 5, rel=0.06)
    assert machine.capacity == pytest.approx(200, rel=0.01)


def test_workers_that_share_cores_are_slower_together() -> None:
    machine = Machine([0.1], [1.0], 0.0, (1.0, 0.5))
    pair = simulate(machine, [0.0, 0.0], 1)
    assert [round(s, 6) for s in pair.latencies] == [0.2, 0.2]
    after = simulate(machine, [0.0, 0.05], 1)
    # Alone for 50 ms, then both at half speed: the first ends at 150 ms, the second at 200.
    assert [round(s, 6) for s in after.latencies] == [0.15, 0.15]


def test_batches_wait_to_fill_and_cost_less_each() -> None:
    machine = Machine([0.1], [1.0], 0.0, (1.0,), (1.0, 1.5), batch_wait=0.02)
    pair = simulate(machine, [0.0, 0.01], 1)
    assert [round(s, 6) for s in pair.latencies] == [0.15, 0.16]
    alone = simulate(machine, [0.0], 1)
    assert [round(s, 6) for s in alone.latencies] == [0.12]
    assert machine.capacity == pytest.approx(2 / 0.15)


def test_a_queue_without_end() -> None:
    found = simulate(Machine([0.1], [1.0], 0.0, (1.0,)), arrivals(20, 5000), 1)
    assert found.latencies == ()
    assert found.ms("p50") == float("inf")


DICE = random.Random(1)  # noqa: S311
SERVICE = [DICE.lognormvariate(-4.6, 0.2) for _ in range(2000)]
"""About 10 ms."""


def closed(concurrency: int, mean: float, throughput: float, **more: Any) -> dict[str, Any]:
    values = [s * mean / (sum(SERVICE) / len(SERVICE)) for s in SERVICE]
    return {
        "mode": 3, "concurrency": concurrency, "rate": None, "arrivals": None, "processes": 2,
        "batch": 1, "throughput": throughput, "latency_ms": stats.latency_ms(values),
        "histogram": histograms.encode(values), "stages_ms": {"infer": 9.0}, "model": "fd1",
        "runtime": "onnxruntime", "precision": "f32", **more,
    }  # fmt: skip


RUNS = [closed(1, 0.012, 83.0), closed(2, 0.014, 142.0), closed(8, 0.05, 160.0)]


def test_calibration_by_hand() -> None:
    machine = capacity.calibrate(RUNS)
    assert machine.delay == pytest.approx(0.014 - 2 / 160, rel=0.01)  # 1.5 ms
    assert machine.speeds[0] == 1.0
    assert machine.speeds[1] == pytest.approx((0.012 - 0.0015) / 0.0125, rel=0.01)
    assert machine.capacity == pytest.approx(160, rel=0.01)
    assert len(machine.batches) == 1


def test_a_worker_may_be_quicker_among_others() -> None:
    """A machine with little to do falls asleep between requests: two workers answered 122/s where
    twice one alone would have been 115/s, and the plan took the lesser for the most."""
    runs = [closed(1, 0.0182, 54.9), closed(2, 0.0172, 116.0), closed(8, 0.065, 122.0)]
    machine = capacity.calibrate(runs)
    assert machine.speeds[1] > 1.04
    assert machine.capacity == pytest.approx(122, rel=0.01)


def test_calibration_of_batches() -> None:
    runs = [
        closed(1, 0.017, 59.0, batch=4, processes=1, max_batch_delay_ms=5),
        closed(8, 0.08, 100.0, batch=4, processes=1, items_per_batch=2.0),
        closed(16, 0.08, 200.0, batch=4, processes=1, items_per_batch=4.0),
    ]
    machine = capacity.calibrate(runs)
    assert machine.batch_wait == 0.005
    assert machine.delay == pytest.approx(0.003, rel=0.01)  # 17 - 5 - 9 of "infer"
    assert machine.batches == pytest.approx((1.0, 20 / 9, 20 / 9, 20 / 9), rel=0.01)
    assert machine.capacity == pytest.approx(200, rel=0.01)


@pytest.mark.slow
def test_more_rate_or_headroom_takes_more_machines() -> None:
    limit = Limit("p99", 60.0)
    counts = [capacity.plan(RUNS, rate, limit, 0.0).machines for rate in (100, 500, 2000)]
    assert counts == sorted(counts)
    assert 2000 / 160 < counts[-1] < 2000 / 100
    assert capacity.plan(RUNS, 2000, limit, 0.3).machines > counts[-1]
    assert capacity.plan(RUNS, 2000, Limit("p99", 30.0), 0.0).machines > counts[-1]
    assert capacity.plan(RUNS, 2000, None, 0.0).machines == 13
    first, second = (capacity.plan(RUNS, 500, limit, 0.3, seed=4) for _ in range(2))
    assert capacity.record(first) == capacity.record(second)


def test_the_page_says_that_it_is_a_plan() -> None:
    opened = {
        **closed(0, 0.02, 50.0),
        "concurrency": None,
        "rate": 50.0,
        "arrivals": "poisson",
        "schedule": {"seed": 3, "seconds": 20.0, "count": 0},
    }
    found = capacity.plan([*RUNS, opened], 500, Limit("p99", 60.0), 0.3)
    text = capacity.page(found)
    assert text.startswith("PLAN: a simulation, not a measurement\n")
    assert f"{found.machines} machines for 500 requests/s within p99=60 ms" in text
    assert "too few" in text
    assert "50/s poisson: p50 " in text
    assert max(map(len, text.splitlines())) <= 100 + 60


def test_a_limit_that_no_number_of_machines_meets() -> None:
    found = capacity.plan(RUNS, 10, Limit("p99", 5.0), 0.3)
    assert found.machines == 0
    assert "no number of machines serves 10 requests/s" in capacity.page(found)


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (RUNS[1:], "no closed loop at concurrency 1: measure with --concurrency 1,2,4"),
        (RUNS[:2], "none with all 2 workers busy: measure with --concurrency 1,2,4"),
    ],
)
def test_runs_that_are_missing_are_named(runs: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(KitError, match=said):
        capacity.plan(runs, 10, None, 0.3)


def test_the_simulation_is_held_against_the_very_arrivals() -> None:
    """A measurement that is the simulation itself agrees with it, however few its requests."""
    machine = capacity.calibrate(RUNS)
    again = Arrivals("poisson", 120.0, seconds=40.0, seed=9)
    due = [d for d, n in again.schedule() if d < 0 or n >= 0]
    truth = simulate(machine, due, 77, sum(d < 0 for d in due))
    measured = {**closed(0, 0.02, 120.0), "concurrency": None, "rate": 120.0,
                "arrivals": "poisson",
                "schedule": {"seed": 9, "seconds": 40.0, "count": 0},
                "latency_ms": {name: truth.ms(name) for name in ("p50", "p95", "p99")}}  # fmt: skip
    (found,) = capacity.check(machine, [measured], 1)
    figures = found.record()
    assert str(found).startswith("120/s poisson: p50 ")
    for name, real in figures["measured_ms"].items():
        assert real == pytest.approx(figures["simulated_ms"][name], rel=0.15)
