"""Tuning on a simulated server whose best settings are known."""

from __future__ import annotations

import random

import pytest

from qpstest.tune import Candidate, Sample, candidates, text, tune, with_default

BEST = Candidate(4, 2, 4, 5)


class Machine:
    """Has a true rate for all settings; measures with noise, and slows down as time goes by.

    Noise falls with the length of a measurement as it does where requests are independent.
    """

    def __init__(self, seed: int, noise: float = 0.06, drift: float = 0.3, over: float = 3000):
        self.dice = random.Random(seed)  # noqa: S311
        self.noise = noise
        self.drift = drift
        self.over = over
        self.spent = 0.0
        self.measured: list[Candidate] = []

    @staticmethod
    def true(c: Candidate) -> float:
        rate = 100.0
        rate *= {1: 0.5, 2: 0.75, 4: 1.0, 8: 0.93}[c.workers]
        rate *= {1: 0.9, 2: 1.0, 4: 0.9, 8: 0.6}[c.threads] if c.workers * c.threads >= 8 else 0.8
        rate *= {1: 0.85, 2: 0.93, 4: 1.0, 8: 0.92}[c.batch]
        return rate * ({1: 0.93, 5: 1.0, 20: 0.85}[c.delay] if c.batch > 1 else 1.0)

    def measure(self, c: Candidate, seconds: float) -> Sample:
        self.measured.append(c)
        self.spent += seconds + 8
        slower = 1 - self.drift * min(1.0, self.spent / self.over)
        error = self.dice.gauss(0, self.noise / seconds**0.5)
        return Sample(self.true(c) * slower * (1 + error), 300.0 * c.workers)


def test_the_known_best_is_the_best() -> None:
    given = candidates(8)
    assert BEST in given
    assert max(given, key=Machine.true) == BEST
    second = sorted(map(Machine.true, given))[-2]
    assert second / Machine.true(BEST) > 0.92  # it is not told apart at a glance


def test_it_is_found_in_nine_of_ten_seeds() -> None:
    found = [tune(candidates(8), Machine(seed).measure).best for seed in range(10)]
    assert found.count(BEST) >= 9


def test_a_drifting_machine_does_not_choose() -> None:
    """Without noise but with a machine that loses most of its speed, the order tells nothing."""
    given = candidates(8)
    for order in (given, given[::-1]):
        assert tune(order, Machine(0, noise=0.0, drift=0.9, over=2000).measure).best == BEST


def test_every_other_pass_is_backwards() -> None:
    given = [Candidate(4, 2, 4, 5), Candidate(4, 2, 8, 5), Candidate(4, 2, 2, 5)]
    machine = Machine(0, noise=0.0)
    tune(given, machine.measure)
    assert machine.measured[:6] == [*given, *given[::-1]]


def test_a_drift_between_the_first_and_the_last_does_not_leave_the_best_out() -> None:
    """Settings that are far worse are measured once, so the two passes are not alike."""
    fillers = [Candidate(1, 1, 1, delay) for delay in range(1, 31)]
    machine = Machine(0, noise=0.0, drift=0.9, over=2000)
    assert tune([Candidate(4, 2, 2, 5), *fillers, BEST], machine.measure).best == BEST


def test_the_worse_half_is_left_out_early() -> None:
    machine = Machine(1)
    given = candidates(8)
    tune(given, machine.measure)
    per_candidate = {c: machine.measured.count(c) for c in given}
    assert min(per_candidate.values()) == 1  # hopeless
    assert sorted(per_candidate.values())[len(given) // 4] <= 2
    assert per_candidate[BEST] > 2
    assert sum(per_candidate.values()) < 5 * len(given)


def test_it_stops_once_one_is_ahead() -> None:
    machine = Machine(1, noise=0.0, drift=0.0)
    given = [BEST, Candidate(1, 1)]
    tuned = tune(given, machine.measure)
    assert tuned.best == BEST
    assert len(machine.measured) == 3  # half as fast is not measured again


def test_memory_is_a_limit() -> None:
    machine = Machine(2)
    tuned = tune(candidates(8), machine.measure, memory_mb=700)
    assert tuned.best is not None
    assert tuned.best.workers == 2
    assert {c.workers for c in machine.measured} == {1, 2}  # more are told from these
    assert "MB of memory, 700 are allowed" in text(tuned)


def test_cores_are_a_limit() -> None:
    assert all(c.workers * c.threads <= 2 for c in candidates(2))
    assert {(c.workers, c.threads) for c in candidates(2)} == {(1, 1), (1, 2), (2, 1)}
    assert {(c.workers, c.threads) for c in candidates(1)} == {(1, 1)}
    gpu = candidates(16, gpus=1, shares=True)
    assert {c.own_process for c in gpu} == {True, False}
    assert max(c.batch for c in gpu) == 64


def test_a_limit_that_no_settings_meet() -> None:
    tuned = tune([BEST], lambda c, s: Sample(0.0, 0.0, "p99 was 80 ms at 1/s"))
    assert tuned.best is None
    assert tuned.reason == "no settings are within the limits: p99 was 80 ms at 1/s"
    assert "80 ms" in text(tuned)


def test_what_cannot_be_told_apart_takes_least() -> None:
    given = [Candidate(2, 2), Candidate(1, 2), Candidate(4, 2)]
    tuned = tune(given, lambda c, s: Sample(100.0 + c.workers / 10, 100.0))
    assert tuned.best == Candidate(1, 2)
    assert "cannot be told apart" in tuned.reason


def test_a_server_that_does_not_start_is_left_out() -> None:
    given = [Candidate(1, 1), Candidate(2, 1)]
    tuned = tune(
        given, lambda c, s: Sample(5.0) if c.workers == 1 else Sample(0.0, why="did not start")
    )
    assert tuned.best == Candidate(1, 1)
    assert "did not start" in text(tuned)


def test_the_line_to_copy() -> None:
    expected = "bash run.sh --workers 4 --threads 2 --batch-size 4 --max-batch-delay 5"
    assert BEST.line == expected
    assert Candidate(2, 1, 8, 1, True).line.startswith("KIT_OWN_GPU_PROCESS=1 bash run.sh ")
    tuned = tune([BEST], Machine(0).measure)
    assert "best" in text(tuned)


@pytest.mark.parametrize("default", [Candidate(2, 1, 1, 100), Candidate(3, 1, 2, 7)])
def test_todays_settings_are_measured_in_any_case(default: Candidate) -> None:
    given = with_default(candidates(2), default)
    assert len(given) == len(set(given))
    assert any((c.workers, c.batch) == (default.workers, default.batch) for c in given)
