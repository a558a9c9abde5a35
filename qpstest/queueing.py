"""A machine's queue, simulated: workers that share its cores, batches, and what a request waits.

The model, calibrated by closed loops on a real machine:

- A request takes ``delay`` seconds outside the workers (network, the server's front end), during
  which it occupies none, and an amount of work in one.
- With j workers busy each of them works at ``speeds[j - 1]`` of the speed that one alone has: less
  than 1, since they share caches, memory and cores, or a little more, where a machine with little
  to do falls asleep between two requests.
- A worker that is free takes as many waiting requests as its batch allows, waiting for the batch to
  fill no longer than it is set to; a batch of n takes ``batches[n - 1]`` times the work of one.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from qpstest.stats import percentile

SHARE_OF_START = 0.1
"""Of the simulated requests, those that are left out because the queue was empty before them."""
HOPELESS = 1000
"""Waiting requests per worker from which a queue is taken to grow without end."""


@dataclass(frozen=True)
class Machine:
    """One machine of the kind that was measured.

    Attributes:
        work: seconds in a worker that requests took alone, from which they are drawn.
        weights: how often each of them occurred.
        delay: seconds outside.
        speeds: of each worker where 1, 2, ... are busy; as many as there are workers.
        batches: work of a batch of 1, 2, ..., against one request; as many as a batch may hold.
        batch_wait: seconds that a worker waits for a batch to fill.
    """

    work: Sequence[float]
    weights: Sequence[float]
    delay: float
    speeds: Sequence[float]
    batches: Sequence[float] = (1.0,)
    batch_wait: float = 0.0

    @property
    def capacity(self) -> float:
        """Requests per second with all workers busy on full batches."""
        mean = sum(w * n for w, n in zip(self.work, self.weights, strict=True)) / sum(self.weights)
        best = max(n / cost for n, cost in enumerate(self.batches, 1))
        return len(self.speeds) * self.speeds[-1] * best / mean


@dataclass(frozen=True)
class Simulated:
    """What came out.

    Attributes:
        latencies: seconds, ascending; empty where the queue grew without end.
        busy: mean share of the workers that were busy.
    """

    latencies: Sequence[float]
    busy: float

    def ms(self, name: str) -> float:
        """A percentile, "mean" or "max" in milliseconds; infinite where there is none."""
        if not self.latencies:
            return float("inf")
        if name == "mean":
            return 1e3 * sum(self.latencies) / len(self.latencies)
        return 1e3 * percentile(self.latencies, 1.0 if name == "max" else int(name[1:]) / 100)


def simulate(
    machine: Machine, arrivals: Sequence[float], seed: int, skipped: int | None = None
) -> Simulated:
    """The latencies of requests that arrive at these times at one machine.

    Args:
        arrivals: seconds, ascending.
        seed: of the requests' work; the same gives the same latencies.
        skipped: how many of the first are not counted; by default a tenth, which met a queue that
            was empty at first.
    """
    return _Run(machine, arrivals, seed).result(skipped)


class _Run:
    """One simulation: the clock jumps from one event to the next."""

    def __init__(self, machine: Machine, arrivals: Sequence[float], seed: int):
        self._machine = machine
        dice = random.Random(seed)  # noqa: S311
        self._work = dice.choices(machine.work, machine.weights, k=len(arrivals))
        self._arrivals = arrivals
        self._waiting: deque[int] = deque()
        self._workers = len(machine.speeds)
        self._done: list[tuple[float, int, list[int]]] = []  # (progress at its end, key, requests)
        self._progress = 0.0  # work that each busy worker has done since the start
        self._now = min(0.0, arrivals[0]) if arrivals else 0.0
        self._begun = self._now
        self._busy_time = 0.0
        self._latencies: list[tuple[int, float]] = []

    def result(self, skipped: int | None) -> Simulated:
        """Runs it through."""
        machine, arrivals = self._machine, self._arrivals
        size, following = len(machine.batches), 0
        while following < len(arrivals) or self._waiting or self._done:
            arrival = arrivals[following] if following < len(arrivals) else float("inf")
            end = self._next_end()
            ready = self._ready(size)
            if ready <= min(arrival, end):
                self._advance(ready)
                self._start(size)
            elif arrival <= end:
                self._advance(arrival)
                self._waiting.append(following)
                following += 1
                if len(self._waiting) > HOPELESS * self._workers:
                    return Simulated((), 1.0)
            else:
                self._advance(end)
                self._end()
        skipped = int(len(arrivals) * SHARE_OF_START) if skipped is None else skipped
        kept = sorted(latency for i, latency in self._latencies if i >= skipped)
        return Simulated(kept, self._busy_time / max(self._now - self._begun, 1e-9) / self._workers)

    def _speed(self) -> float:
        return self._machine.speeds[len(self._done) - 1] if self._done else 0.0

    def _next_end(self) -> float:
        if not self._done:
            return float("inf")
        return self._now + (self._done[0][0] - self._progress) / self._speed()

    def _ready(self, size: int) -> float:
        """When a free worker takes what waits."""
        if not self._waiting or len(self._done) >= self._workers:
            return float("inf")
        if len(self._waiting) >= size or not self._machine.batch_wait:
            return self._now
        return max(self._now, self._arrivals[self._waiting[0]] + self._machine.batch_wait)

    def _advance(self, to: float) -> None:
        spent = to - self._now
        self._progress += spent * self._speed()
        self._busy_time += spent * len(self._done)
        self._now = to

    def _start(self, size: int) -> None:
        taken = [self._waiting.popleft() for _ in range(min(size, len(self._waiting)))]
        mean = sum(self._work[i] for i in taken) / len(taken)
        work = mean * self._machine.batches[len(taken) - 1]
        heapq.heappush(self._done, (self._progress + work, taken[0], taken))

    def _end(self) -> None:
        _, _, taken = heapq.heappop(self._done)
        for i in taken:
            self._latencies.append((i, self._now - self._arrivals[i] + self._machine.delay))
