"""Statistics of a window, without NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from qpstest import histograms
from qpstest.load import Tally

STABLE_WINDOWS = 3
STABLE_SPREAD = 0.10
"""Windows are stable once this many of them lie within this share of their mean."""
GAP = 0.25
"""Seconds without an answer from which a server may be said to stand still."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie, interpolated linearly between two.

    Args:
        ordered: at least one value, ascending.
        share: 0 to 1.

    Raises:
        ValueError: no values, or a share outside 0 to 1.
    """
    if not ordered:
        raise ValueError("a percentile of no values")
    if not 0 <= share <= 1:
        raise ValueError(f"a share between 0 and 1 was expected, got {share}")
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    if ordered[low] == ordered[high]:
        return ordered[low]
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def latency_ms(seconds: Iterable[float]) -> dict[str, float | None]:
    """Mean, percentiles, maximum and standard deviation in milliseconds; all None for no values."""
    ordered = sorted(seconds)
    if not ordered:
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max", "sd"))
    values: dict[str, float | None] = {"mean": math.fsum(ordered) / len(ordered) * 1e3}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        values[name] = percentile(ordered, share) * 1e3
    values["max"] = ordered[-1] * 1e3
    mean = math.fsum(ordered) / len(ordered)
    values["sd"] = math.sqrt(math.fsum((v - mean) ** 2 for v in ordered) / len(ordered)) * 1e3
    return {name: rounded(value) for name, value in values.items()}


def rounded(value: float | None, digits: int = 3) -> float | None:
    """Rounded for a report; None where there is nothing finite to report."""
    return round(value, digits) if value is not None and math.isfinite(value) else None


def summarise(tally: Tally, seconds: float) -> dict[str, Any]:
    """The fields of a run that its requests decide.

    Args:
        tally: of all processes and windows.
        seconds: the measured windows' length, above 0 where anything was answered.
    """
    good = len(tally.latencies)
    failed = sum(tally.errors.values())
    timed = good and tally.send + tally.wait + tally.receive > 0
    return {
        "requests": good + failed,
        "succeeded": good,
        "seconds": rounded(seconds),
        "throughput": rounded(good / seconds) if seconds > 0 else 0.0,
        "latency_ms": latency_ms(tally.latencies),
        "errors": dict(sorted(tally.errors.items())),
        "error_messages": {k: dict(seen) for k, seen in sorted(tally.messages.items())},
        "client_ms": {
            "send": rounded(tally.send / good * 1e3),
            "wait": rounded(tally.wait / good * 1e3),
            "receive": rounded(tally.receive / good * 1e3),
        }
        if timed
        else None,
        "histogram": histograms.encode(tally.latencies),
        **_lateness(tally),
    }


def _lateness(tally: Tally) -> dict[str, Any]:
    """How late an open loop's requests were sent; nothing for a closed loop."""
    if not tally.lateness and not tally.unsent:
        return {}
    late = sorted(tally.lateness) or [0.0]
    shown = {"p50": percentile(late, 0.5), "p99": percentile(late, 0.99), "max": late[-1]}
    return {
        "late": tally.late,
        "cut": tally.cut,
        "unsent": tally.unsent,
        "lateness_ms": {name: rounded(value * 1e3) for name, value in shown.items()},
    }


@dataclass(frozen=True)
class Standstill:
    """Times in which no answer came although requests were waiting.

    Attributes:
        times: how many.
        longest, total: seconds.
        share: of the window.
    """

    times: int
    longest: float
    total: float
    share: float


def standstill(tally: Tally) -> Standstill | None:
    """Where the answers of a closed loop stopped coming; None where they did not.

    A gap between two answers counts where it is ten times the median latency and a quarter of a
    second. Gaps that are as frequent as slow answers are, and no longer, are slow answers.
    """
    ends, ordered = sorted(tally.ends), sorted(tally.latencies)
    if len(ends) < 20:
        return None
    least = max(GAP, 10 * percentile(ordered, 0.5))
    long = [gap for gap in (b - a for a, b in pairwise(ends)) if gap >= least]
    rare = len(long) * 66 <= len(ends)
    if not long or not (rare or max(long) >= 3 * percentile(ordered, 0.99)):
        return None
    total = math.fsum(long)
    return Standstill(len(long), max(long), total, total / max(ends[-1] - ends[0], 1e-9))


def spread(values: Sequence[float]) -> float:
    """Largest less smallest, as a share of the mean; infinite where the mean is 0."""
    mean = math.fsum(values) / len(values)
    return (max(values) - min(values)) / mean if mean > 0 else math.inf


def is_stable(*figures: Sequence[float]) -> bool:
    """Whether the last windows lie close enough together, in each of these figures."""
    last = [values[-STABLE_WINDOWS:] for values in figures]
    return all(len(v) == STABLE_WINDOWS and spread(v) <= STABLE_SPREAD for v in last)


def median_rounds(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One run for each mode, batch and load: that of median throughput (the lower of two).

    Where there were several, it says all their throughputs under "rounds" and their latencies
    under "rounds_ms".
    """
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        grouped.setdefault(key(run), []).append(run)
    chosen = []
    for group in grouped.values():
        ordered = sorted(group, key=lambda run: float(run["throughput"]))
        median = ordered[(len(ordered) - 1) // 2]
        if len(group) > 1:
            names = ("p50", "p95", "p99")
            median = {
                **median,
                "rounds": [run["throughput"] for run in group],
                "rounds_ms": {n: [run["latency_ms"][n] for run in group] for n in names},
            }
            dead = [str(i) for i, run in enumerate(group, 1) if not run["throughput"]]
            if dead and median["throughput"]:
                line = f"no right answer in round {', '.join(dead)} of {len(group)}"
                median["notes"] = [*median["notes"], line]
        chosen.append(median)
    return chosen


def key(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells runs apart: mode, batch, requests in flight, rate and arrivals."""
    return tuple(run.get(f) for f in ("mode", "batch", "concurrency", "rate", "arrivals"))
