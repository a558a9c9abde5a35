"""Statistics of a window, without NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from qpstest.load import Tally

STABLE_WINDOWS = 3
STABLE_SPREAD = 0.10
"""Throughput is stable once this many windows lie within this share of their mean."""


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
    """Mean, percentiles and maximum in milliseconds; all None for no values."""
    ordered = sorted(seconds)
    if not ordered:
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"))
    values: dict[str, float | None] = {"mean": math.fsum(ordered) / len(ordered) * 1e3}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        values[name] = percentile(ordered, share) * 1e3
    values["max"] = ordered[-1] * 1e3
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
    }


def spread(values: Sequence[float]) -> float:
    """Largest less smallest, as a share of the mean; infinite where the mean is 0."""
    mean = math.fsum(values) / len(values)
    return (max(values) - min(values)) / mean if mean > 0 else math.inf


def is_stable(throughputs: Sequence[float]) -> bool:
    """Whether the last windows lie close enough together."""
    last = throughputs[-STABLE_WINDOWS:]
    return len(last) == STABLE_WINDOWS and spread(last) <= STABLE_SPREAD


def median_rounds(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One run for each mode, batch and concurrency: that of median throughput (the lower of two).

    Where there were several, it says all their throughputs under "rounds".
    """
    grouped: dict[tuple[int, int | None, int], list[dict[str, Any]]] = {}
    for run in runs:
        grouped.setdefault((run["mode"], run.get("batch"), run["concurrency"]), []).append(run)
    chosen = []
    for group in grouped.values():
        ordered = sorted(group, key=lambda run: float(run["throughput"]))
        median = ordered[(len(ordered) - 1) // 2]
        rounds = [run["throughput"] for run in group]
        chosen.append({**median, "rounds": rounds} if len(group) > 1 else median)
    return chosen
