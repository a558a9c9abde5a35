"""One load measured on a fleet that is told what to answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from qpstest import ceiling
from qpstest.arrivals import Arrivals, Load
from qpstest.fleet import Fleet
from qpstest.http_api import HttpTarget, Plain
from qpstest.load import Reply, Tally
from qpstest.measure import Measurement
from qpstest.options import parse
from qpstest.targets import Setup
from qpstest.watch import Observed, Unwatched


class Told:
    """A fleet whose windows take the given latencies in turn, a hundred requests each."""

    def __init__(self, *latencies: float, late: int = 0, cpu: float = 0.0):
        self._latencies = list(latencies)
        self._late = late
        self._cpu = cpu
        self.loads: list[Any] = []
        self.infos = [{"runtime": None, "precision": None, "fallback": None}]
        self.parent = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def _window(self, opened: bool) -> tuple[Tally, float, list[int]]:
        self.meanwhile()
        latency = self._latencies.pop(0) if len(self._latencies) > 1 else self._latencies[0]
        tally = Tally()
        for i in range(100):
            tally.add(Reply("", send=0.001), latency, 100 + i * 0.01)
            if opened:
                tally.lateness.append(0.02 if i < self._late else 0.0)
        tally.sent, tally.late, tally.cpu = 100, self._late, self._cpu
        return tally, 1.0, []

    def run(self, callers: int, requests: int, *rest: object) -> tuple[Tally, float, list[int]]:
        self.loads.append(callers)
        return self._window(False)

    def arrive(self, arrivals: Arrivals, *rest: object) -> tuple[Tally, float, list[int]]:
        self.loads.append(arrivals)
        return self._window(True)

    def ask(self, number: int) -> Reply:
        return Reply("", "", b"{}")


def measured(told: Told, load: Load, *flags: str, watch: Any = None) -> dict[str, Any]:
    target = HttpTarget("http://127.0.0.1:9", Plain("/"), [b"x"], 1.0)
    setup = Setup(mode=3, targets=[target], processes=2)
    options = parse(["--warmup", "0", *flags])
    fleet = cast(Fleet, told)
    return Measurement(options, setup, fleet, 1.0, watch or Unwatched()).run(load)


def test_an_open_loops_entry() -> None:
    told = Told(0.02, late=3)
    run = measured(told, Load(arrivals=Arrivals("poisson", 50.0, seconds=2.5)))
    assert (run["concurrency"], run["rate"], run["arrivals"]) == (None, 50.0, "poisson")
    assert run["offered"] == 40.0  # 100 in 2.5 s
    assert run["schedule"] == {"seed": 0, "seconds": 2.5, "count": 0}
    assert run["late"] == 3
    assert run["notes"] == []
    assert run["server"] == "torchserve"
    assert told.loads[0] == 2  # the warm-up has as many callers as workers


def test_many_late_requests_are_named_with_the_generators_ceiling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = Load(arrivals=Arrivals("constant", 50.0, seconds=2.0))
    monkeypatch.setattr(ceiling, "measure", lambda target: 45.0)
    (note,) = measured(Told(0.02, late=30), load)["notes"]
    assert "30 of 100 requests were sent more than 5 ms late" in note
    assert "can send 45/s" in note
    assert "the rate of 50/s is above its ceiling" in note
    monkeypatch.setattr(ceiling, "measure", lambda target: 4500.0)
    (note,) = measured(Told(0.02, late=30), load)["notes"]
    assert "above its ceiling" not in note


def test_stable_waits_for_the_latency_too() -> None:
    told = Told(0.02, 0.02, 0.5, 0.02, 0.021, 0.02)  # the first is the warm-up
    run = measured(told, Load(concurrency=4), "--stable")
    assert run["stable"] is True
    assert len(run["windows"]) == 5
    assert run["windows_ms"][1] == 500.0
    never = Told(*[0.02, 0.05] * 20)
    run = measured(never, Load(concurrency=4), "--stable", "--max-windows", "4")
    assert run["stable"] is False
    assert "not stable after 4 windows (spread of throughput 0%, of latency" in run["notes"][0]


def test_each_window_has_other_poisson_arrivals() -> None:
    told = Told(0.02)
    measured(told, Load(arrivals=Arrivals("poisson", 50.0, seconds=1.0, seed=5)), "--stable")
    assert [a.seed for a in told.loads[1:]] == [5, 6, 7]


def test_a_clock_that_jumps_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(0.02)
    real = time.time

    def jump() -> None:
        if len(told.loads) == 2:
            monkeypatch.setattr(time, "time", lambda: real() + 3600)

    told.meanwhile = jump
    (note,) = measured(told, Load(concurrency=4))["notes"]
    assert "the system's clock was set by +3600.0 s" in note


def test_a_server_that_was_restarted_is_named() -> None:
    class Watch(Unwatched):
        def end(self, refused: int, sent: int) -> Observed:
            return replace(Observed(), restarted=True)

    run = measured(Told(0.02), Load(concurrency=4), watch=Watch())
    assert run["notes"] == ["the server was restarted since the measurement before this one"]


def test_a_busy_generator_is_named() -> None:
    run = measured(Told(0.02, cpu=0.9), Load(concurrency=4))
    assert "used 90% of a core and may be the limit" in run["notes"][0]
