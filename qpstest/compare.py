"""Two JSON files compared, and several merged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from handlers.errors import KitError
from qpstest import histograms, stats
from qpstest.options import LABELS
from qpstest.report import load_of, short_load, table

Run = Mapping[str, Any]
FIGURES = ("p50", "p95", "p99")


def load(path: Path) -> list[dict[str, Any]]:
    """The runs of a JSON file of the tester's; raises ``KitError`` where it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise KitError(f"{path} cannot be read: {e.strerror}") from None
    except ValueError as e:
        raise KitError(f"{path} is no JSON file: {str(e).splitlines()[0]}") from None
    runs = found.get("runs") if isinstance(found, dict) else None
    wanted = {"mode", "throughput", "latency_ms", "concurrency"}
    if not isinstance(runs, list) or not all(
        isinstance(run, dict) and wanted <= run.keys() for run in runs
    ):
        raise KitError(f"{path} holds no runs: a file that qpstest --json wrote was expected")
    return runs


def compare(before: Sequence[Run], after: Sequence[Run], tolerance: float) -> tuple[str, bool]:
    """(a table of ratios, whether something got worse), for the runs that both have.

    A ratio counts as worse where it is off by more than the tolerance and by more than the rounds
    of either file lie apart.

    Args:
        tolerance: percent.

    Raises:
        KitError: the files have no load in common.
    """
    old = {stats.key(run): run for run in before}
    pairs = [(old[stats.key(run)], run) for run in after if stats.key(run) in old]
    if not pairs:
        raise KitError("the two files have no mode and load in common: nothing can be compared")
    rows, worse = [], False
    for a, b in pairs:
        cells, verdicts = [], []
        for name in ("throughput", *FIGURES):
            first, second = _figure(a, name), _figure(b, name)
            if not first or not second:
                cells += ["-", "-"]
                verdicts += [name] if first and not second else []
                continue
            ratio = second / first
            spread = max(_spread(a, name), _spread(b, name))
            cells += [f"{ratio:.3f}", f"{spread:.1%}" if spread else "-"]
            loss = 1 - ratio if name == "throughput" else ratio - 1
            if loss > max(tolerance / 100, spread):
                verdicts.append(name)
        worse |= bool(verdicts)
        said = f"worse: {', '.join(verdicts)}" if verdicts else "as good"
        rows.append((LABELS[b["mode"]], short_load(b), *cells, said))
    figures = [cell for name in ("req/s", *FIGURES) for cell in (f"{name} B/A", "spread")]
    lines = [table(("mode", "load", *figures, ""), rows, left=1)]
    if missing := len(before) + len(after) - 2 * len(pairs):
        lines.append(f"{missing} runs are in one file only and are left out")
    if not any("rounds" in run for pair in pairs for run in pair):
        lines.append("no spread is known: measure with --rounds 3 or --stable")
    return "\n".join(lines), worse


def merge(files: Sequence[Sequence[Run]]) -> list[dict[str, Any]]:
    """A run for each mode and load, with the requests of all files together.

    Throughput is all right answers over the time in which any of the runs was measured, so that it
    adds up where clients ran at once and is the mean where they took turns. Latencies come from
    the histograms.
    """
    grouped: dict[tuple[Any, ...], list[Run]] = {}
    for runs in files:
        for run in runs:
            if not run.get("histogram"):
                raise KitError(f"the run at {load_of(run)} has no histogram: it cannot be merged")
            grouped.setdefault(stats.key(run), []).append(run)
    merged = []
    for group in grouped.values():
        total = histograms.merge(run["histogram"] for run in group)
        errors: dict[str, int] = {}
        for run in group:
            for kind, count in run["errors"].items():
                errors[kind] = errors.get(kind, 0) + count
        merged.append(
            {
                **group[0],
                "requests": sum(run["requests"] for run in group),
                "succeeded": sum(run["succeeded"] for run in group),
                "throughput": round(sum(run["succeeded"] for run in group) / _time(group), 3),
                "seconds": round(_time(group), 3),
                "latency_ms": histograms.latency_ms(total),
                "histogram": str(total.encode().decode("ascii")),
                "errors": errors,
                "notes": [f"{len(group)} runs merged; stages and memory are the first one's"],
            }
        )
    return merged


def _figure(run: Run, name: str) -> float | None:
    value = run["throughput"] if name == "throughput" else run["latency_ms"][name]
    return None if value is None else float(value)


def _spread(run: Run, name: str) -> float:
    """How far a run's rounds (or windows, for the throughput) lie apart, as a share."""
    if name == "throughput":
        values = run.get("rounds") or run.get("windows") or ()
    else:
        values = (run.get("rounds_ms") or {}).get(name) or ()
    known = [value for value in values if value]
    return stats.spread(known) if len(known) > 1 else 0.0


def _time(runs: Sequence[Run]) -> float:
    """Seconds in which at least one of the runs was measured."""
    spans = []
    for run in runs:
        end = datetime.fromisoformat(run["date"]).timestamp()
        spans.append((end - run["seconds"], end))
    total, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return max(total, 1e-9)
