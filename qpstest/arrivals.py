"""When requests are due in an open loop, whatever the server does."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from handlers.errors import KitError

LEAD = 1.0
"""Seconds of uncounted arrivals before the counted ones: the server is busy when these begin."""
TAIL = 1.0
"""Likewise after them, at most: the last counted requests meet the load that the others met."""


@dataclass(frozen=True)
class Load:
    """What a window asks of a server: so many requests in flight, or so many a second.

    Attributes:
        concurrency: requests in flight in a closed loop; 0 in an open one.
        arrivals: when requests are due in an open loop.
    """

    concurrency: int = 0
    arrivals: Arrivals | None = None

    @property
    def name(self) -> str:
        if self.arrivals is None:
            return f"concurrency {self.concurrency}"
        return f"rate {self.arrivals.rate:g}/s"


@dataclass(frozen=True)
class Arrivals:
    """An open loop's schedule.

    Attributes:
        kind: "constant", "poisson" or "recorded".
        rate: requests per second, the mean.
        count: how many are counted; 0 where ``seconds`` decides.
        seconds: how long counted requests arrive; 0 where ``count`` decides.
        seed: of Poisson arrivals; the same seed gives the same times.
        times: of recorded arrivals, in seconds from the first, ascending.
        patience: seconds that the last counted request's answer is waited for; its time limit
            where it is None.
        limit: (share, seconds): the schedule ends early once fewer than this share of all
            requests can be answered within so many seconds; never where it is None.
    """

    kind: str
    rate: float
    count: int = 0
    seconds: float = 0.0
    seed: int = 0
    times: tuple[float, ...] = ()
    patience: float | None = None
    limit: tuple[float, float] | None = None

    @property
    def total(self) -> int:
        """How many requests are counted; of Poisson arrivals by time, about how many."""
        if self.kind == "recorded":
            return len(self.times)
        return self.count or max(1, round(self.rate * self.seconds))

    def schedule(self, share: int = 0, shares: int = 1) -> Iterator[tuple[float, int]]:
        """(seconds from the first counted arrival's window, number) of one process's requests.

        Numbers count the counted requests from 0; the others have -1. The processes' shares
        together are the whole schedule.
        """
        return islice(self._all(), share, None, shares)

    def _all(self) -> Iterator[tuple[float, int]]:
        if self.kind == "recorded":
            yield from zip(self.times, range(len(self.times)), strict=True)
            return
        number = 0
        end = self.seconds or math.inf
        most = self.count or math.inf
        after = math.inf
        for due in self._due():
            if due < 0 or number >= most or due >= end:
                if due >= 0 and after == math.inf:
                    after = due
                if due > after + TAIL:
                    return
                yield due, -1
                continue
            yield due, number
            number += 1

    def _due(self) -> Iterator[float]:
        """Times without end, from ``LEAD`` seconds before 0 on."""
        if self.kind == "constant":
            number = -math.floor(LEAD * self.rate)
            while True:
                yield number / self.rate
                number += 1
        clock = random.Random(self.seed)  # noqa: S311
        due = -LEAD
        while True:
            due += clock.expovariate(self.rate)
            yield due


def recorded(path: Path, rate: float | None = None) -> Arrivals:
    """Arrivals from a file: a time in seconds in each line (its first column), ascending.

    Args:
        rate: requests per second that the times are stretched to; None leaves them as they are.

    Raises:
        KitError: the file cannot be read, or a line is no time or goes back.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as e:
        raise KitError(f"--arrivals {path} cannot be read: {e.strerror}") from None
    times: list[float] = []
    for number, line in enumerate(lines, 1):
        text = line.replace(",", " ").split("#")[0].split()
        if not text:
            continue
        try:
            value = float(text[0])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            if not times and number == 1:
                continue  # a table's head
            raise KitError(f"--arrivals {path}: line {number}: seconds were expected, {text[0]!r}")
        if times and value < times[-1]:
            raise KitError(
                f"--arrivals {path}: line {number} goes back from {times[-1]:g} to {value:g} s: "
                "ascending times were expected"
            )
        times.append(value)
    if len(times) < 2 or times[-1] == times[0]:
        raise KitError(f"--arrivals {path}: at least two different times were expected")
    given = (len(times) - 1) / (times[-1] - times[0])
    factor = given / rate if rate else 1.0
    shifted = tuple((time - times[0]) * factor for time in times)
    return Arrivals("recorded", rate or given, times=shifted)
