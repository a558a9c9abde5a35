"""Latency histograms that can be merged over runs and machines: HdrHistogram's, in microseconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hdrh.histogram import HdrHistogram

from handlers.errors import KitError

LOWEST, HIGHEST, DIGITS = 1, 86_400_000_000, 3
"""A microsecond to a day, each value kept to a part in a thousand."""


def encode(seconds: Iterable[float]) -> str:
    """A histogram in HdrHistogram's V2 format, compressed, as base64 text."""
    histogram = HdrHistogram(LOWEST, HIGHEST, DIGITS)
    for value in seconds:
        histogram.record_value(min(max(round(value * 1e6), LOWEST), HIGHEST))
    return str(histogram.encode().decode("ascii"))


def merge(encoded: Iterable[str]) -> Any:
    """The histogram of all of these together; raises ``KitError`` where one is damaged."""
    total = HdrHistogram(LOWEST, HIGHEST, DIGITS)
    for text in encoded:
        try:
            total.decode_and_add(text.encode("ascii"))
        except Exception as e:  # zlib, struct and the package's own
            raise KitError(f"a histogram cannot be read ({type(e).__name__}: {e})") from None
    return total


def latency_ms(histogram: Any) -> dict[str, float | None]:
    """The figures of ``stats.latency_ms`` from a histogram; all None where it is empty."""
    if not histogram.get_total_count():
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max", "sd"))
    found: dict[str, float | None] = {"mean": histogram.get_mean_value() / 1e3}
    for share in (50, 90, 95, 99):
        found[f"p{share}"] = histogram.get_value_at_percentile(share) / 1e3
    found["max"] = histogram.get_max_value() / 1e3
    found["sd"] = histogram.get_stddev() / 1e3
    return {name: round(value, 3) for name, value in found.items() if value is not None}


def values(histogram: Any) -> tuple[list[float], list[int]]:
    """(seconds, how many) of each recorded value, ascending."""
    items = [(i.value_iterated_to, i.count_added_in_this_iter_step)
             for i in histogram.get_recorded_iterator()]  # fmt: skip
    return [value / 1e6 for value, _ in items], [int(count) for _, count in items]
