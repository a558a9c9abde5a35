"""The highest rate within a latency limit, by bisection; what is found is measured once more."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from handlers.errors import KitError
from qpstest.options import Limit

Run = dict[str, Any]
KEPT_UP = 0.95
"""Of the rate, the throughput that a server which keeps up has."""
RESOLUTION = 0.03
"""The bisection ends once the bracket is as narrow as this share of its lower end."""
STEPS = 12
CONFIRMATIONS = 4
STEP_DOWN, STEP_LOWER, STEP_UP = 0.95, 0.6, 1.25
START = 0.7
"""Of the closed loop's throughput, the first rate that is tried."""
LOWEST = 0.02
"""Of the same: a limit that is not met here is not met at all."""


@dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes:
        rate: the highest that met the limit, twice where it was confirmed; 0.0 where none did.
        run: of the confirmation, or of the closest where none met the limit.
        tried: every run with its rate, in the order they were made.
        why: one line: what stood in the way of more, or why no rate meets the limit.
    """

    rate: float
    run: Run
    tried: tuple[Run, ...]
    why: str


def verdict(run: Mapping[str, Any], limit: Limit) -> str | None:
    """None where a run at a rate met the limit, else why it did not."""
    value = run["latency_ms"][limit.percentile]
    failed = sum(run["errors"].values())
    if value is None:
        return "no right answer came"
    if failed:
        kind = max(run["errors"], key=run["errors"].__getitem__)
        return f"{failed} of {run['requests']} requests failed ({kind})"
    if value > limit.ms or run.get("cut"):
        return f"{limit.percentile} was {value:.4g} ms"
    offered = run.get("offered") or run["rate"]
    if not run.get("short") and run["throughput"] < KEPT_UP * offered:
        return f"{run['throughput']:.4g}/s were answered of {offered:.4g}/s"
    return None


def highest(
    measure: Callable[[float, bool], Run],
    limit: Limit,
    capacity: float,
    bounds: tuple[float, float] | None = None,
    steps: int = STEPS,
    confirm: bool = True,
) -> Found:
    """Searches for the highest rate within the limit.

    Args:
        measure: one run at a rate, requests per second; the second argument asks for a whole one,
            where the others may end early.
        capacity: about what the server can do at most, requests per second.
        bounds: the lowest and the highest rate to try; by default from the capacity.
        steps: about as many rates are tried.
        confirm: whether what is found is measured once more.

    Raises:
        KitError: the capacity is 0 and there are no bounds.
    """
    if capacity <= 0 and not bounds:
        raise KitError("the server answered nothing in a closed loop: there is no rate to search")
    search = _Search(measure, limit, steps)
    low, high = search.within(*bounds) if bounds else search.around(capacity)
    while low and high > low * (1 + RESOLUTION) and len(search.tried) < steps:
        middle = (low + high) / 2
        low, high = (middle, high) if search.meets(middle) else (low, middle)
    if not low:
        return search.none()
    return search.confirmed() if confirm else search.found(low)


class _Search:
    """The runs so far and what they said."""

    def __init__(self, measure: Callable[[float, bool], Run], limit: Limit, steps: int):
        self._measure = measure
        self._limit = limit
        self._steps = steps
        self.tried: list[Run] = []
        self._met: dict[float, Run] = {}
        self._why = ""

    def meets(self, rate: float, whole: bool = False) -> bool:
        run = self._measure(rate, whole)
        self.tried.append(run)
        wrong = verdict(run, self._limit)
        if wrong:
            self._why = f"at {rate:.4g}/s {wrong}"
        else:
            self._met[rate] = run
        return wrong is None

    def within(self, low: float, high: float) -> tuple[float, float]:
        """(highest known to meet it, lowest known not to), of a given range; (0, ...) for none."""
        if not self.meets(low):
            return 0.0, low
        return (high, high) if self.meets(high) else (low, high)

    def around(self, capacity: float) -> tuple[float, float]:
        """The same, from a first guess up or down."""
        rate = START * capacity
        if self.meets(rate):
            while len(self.tried) < self._steps and self.meets(rate * STEP_UP):
                rate *= STEP_UP
            return rate, rate * STEP_UP
        while rate > LOWEST * capacity:
            lower = max(rate * STEP_LOWER, LOWEST * capacity)
            if self.meets(lower):
                return lower, rate
            rate = lower
        return 0.0, rate

    def confirmed(self) -> Found:
        """The best so far, measured once more; a little lower where that fails."""
        rate, more = max(self._met), self._why or "no higher rate was tried"
        for _ in range(CONFIRMATIONS):
            if self.meets(rate, whole=True):
                return Found(rate, self.tried[-1], tuple(self.tried), more)
            more = self._why
            rate = max([rate * STEP_DOWN, *(r for r in self._met if rate * STEP_DOWN < r < rate)])
        self._why = f"no rate met it twice: {self._why}"
        return self.none()

    def found(self, rate: float) -> Found:
        """What met the limit, unconfirmed."""
        return Found(rate, self._met[rate], tuple(self.tried), self._why)

    def none(self) -> Found:
        """That there is no such rate, with the run that came closest."""
        name = self._limit.percentile
        closest = min(self.tried, key=lambda r: r["latency_ms"][name] or math.inf)
        return Found(0.0, closest, tuple(self.tried), self._why)
