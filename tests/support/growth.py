"""Whether what was measured round by round is flat once the server is warm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

WARM = 1 / 3
"""Share of the rounds in which a server may still grow: pools fill, code is compiled."""


@dataclass(frozen=True)
class Bound:
    """How far something may rise between the end of the warm-up and the end.

    Attributes:
        floor: what comes and goes without a leak, in the unit of what is measured.
        a_thousand: what a thousand requests may leave behind, likewise.
        share: what may be added to the level after warm-up, as a share of it.
    """

    floor: float = 0.0
    a_thousand: float = 0.0
    share: float = 0.0


@dataclass(frozen=True)
class Rise:
    """How far something rose after warm-up, measured in two ways.

    Attributes:
        level: median of the first quarter of the rounds after warm-up.
        by_slope: the middle one of all slopes between two rounds, times the requests.
        by_level: median of the last quarter of the rounds, less ``level``.
        requests: how many there were meanwhile.
    """

    level: float
    by_slope: float
    by_level: float
    requests: float

    def allowed(self, bound: Bound) -> float:
        return bound.floor + bound.a_thousand * self.requests / 1000 + bound.share * self.level

    def within(self, bound: Bound) -> bool:
        """A line that climbs fails by its slope, a step by its level; one odd round by neither."""
        return max(self.by_slope, self.by_level) <= self.allowed(bound)


def rise(requests: Sequence[float], values: Sequence[float]) -> Rise:
    """How far values rose after warm-up.

    Args:
        requests: how many requests there had been at each round's end, rising.
        values: what was measured there, at least 12.
    """
    if len(values) < 12:
        raise ValueError(f"{len(values)} rounds came; expected at least 12")
    begin = int(len(values) * WARM)
    x, y = requests[begin:], values[begin:]
    slopes = [(y[j] - y[i]) / (x[j] - x[i]) for i, j in combinations(range(len(x)), 2)]
    quarter = len(y) // 4
    level = median(y[:quarter])
    span = x[-1] - x[0]
    return Rise(level, median(slopes) * span, median(y[-quarter:]) - level, span)
