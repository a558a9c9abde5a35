"""Throughput and latency over the load, one against the other, and where the time goes: a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from handlers.errors import KitError
from qpstest.options import Limit
from qpstest.report import label, load_of, stages_of

COLOURS = {1: "#8a8a8a", 2: "#1d78be", 3: "#e6663c"}
STYLES = ("o-", "^--", "D-.")
"""Of the batch sizes of one mode, the smallest first."""
LIMIT_COLOUR = "#b3261e"
STAGE_COLOURS = ("#c9d6df", "#7a9cc6", "#e8e4d9", "#8fbf88", "#3b6ea8", "#e0a458", "#b56576")

Run = Mapping[str, Any]


def plot(runs: Sequence[Run], path: Path, limit: Limit | None = None) -> None:
    """Draw the runs to ``path``.

    Args:
        limit: a latency that is drawn as a line; its percentile is drawn, too.

    Raises:
        KitError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise KitError(f"--plot: {e}: pip install matplotlib") from None
    high = limit.percentile if limit else "p95"
    figure = Figure(figsize=(15, 9.2), layout="constrained")
    FigureCanvasAgg(figure)
    (rate, time), (curve, parts) = figure.subplots(2, 2)
    handles = []
    for mode, batch in sorted({(run["mode"], run["batch"] or 0) for run in runs}):
        same = [r for r in runs if r["mode"] == mode and (r["batch"] or 0) == batch]
        same = list({_load(r): r for r in sorted(same, key=_load)}.values())
        colour, style = COLOURS[mode], _style(mode, batch, runs)
        (line,) = rate.plot(
            [_load(r) for r in same],
            [r["throughput"] for r in same],
            style,
            color=colour,
            label=_label(same[0], runs),
        )
        handles.append(line)
        timed = [r for r in same if r["latency_ms"]["p50"] is not None and not r.get("cut")]
        for name, dots in (("p50", style), (high, "s:")):
            y = [r["latency_ms"][name] for r in timed]
            time.plot([_load(r) for r in timed], y, dots, color=colour)
            curve.plot([r["throughput"] for r in timed], y, dots, color=colour)
        ended = [r for r in same if r.get("cut")]
        at = [_load(r) for r in ended]
        time.plot(at, [r["latency_ms"][high] for r in ended], "x", color=colour)
    rate.set(title="Throughput", ylabel="requests / s", ylim=(0, None))
    time.set(title=f"Latency (line: p50, dots: {high})", ylabel="milliseconds", ylim=(0, None))
    curve.set(
        title=f"Latency against throughput (line: p50, dots: {high})",
        xlabel="requests answered / s",
        ylabel="milliseconds",
        xlim=(0, None),
        ylim=(0, None),
    )
    opened = any(r.get("rate") for r in runs)
    for axes in (rate, time):
        if opened:
            axes.set_xlim(0, None)
        else:
            ticks = sorted({_load(run) for run in runs})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
            axes.minorticks_off()
        axes.set_xlabel("requests sent / s" if opened else "requests in flight")
    for axes in (rate, time, curve):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if limit:
        for axes in (time, curve):
            axes.axhline(limit.ms, color=LIMIT_COLOUR, linewidth=1)
            axes.annotate(
                f"limit {limit.name} ms", (0, limit.ms), xycoords=("axes fraction", "data"),
                xytext=(4, 3), textcoords="offset points", color=LIMIT_COLOUR,
            )  # fmt: skip
    _draw_stages(parts, runs)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(_title(runs), fontsize=11)
    try:
        figure.savefig(path, dpi=130, format="png")
    except OSError as e:
        raise KitError(f"--plot {path} cannot be written: {e.strerror}") from None


def _load(run: Run) -> float:
    return float(run.get("rate") or run["concurrency"])


def _style(mode: int, batch: int, runs: Sequence[Run]) -> str:
    batches = sorted({run["batch"] or 0 for run in runs if run["mode"] == mode})
    return STYLES[batches.index(batch) % len(STYLES)]


def _draw_stages(axes: Any, runs: Sequence[Run]) -> None:
    """A bar for each run: its stages, milliseconds per item, stacked."""
    places = list(range(len(runs)))
    start = [0.0] * len(runs)
    for stage, colour in zip(stages_of(runs), cycle(STAGE_COLOURS), strict=False):
        values = [r["stages_ms"].get(stage) or 0.0 for r in runs]
        if any(values):
            axes.barh(places, values, left=start, color=colour, label=stage)
        start = [a + b for a, b in zip(start, values, strict=True)]
    axes.set_yticks(places, [f"{label(r, runs)}, {load_of(r)}" for r in runs])
    axes.invert_yaxis()
    axes.set(title="Where an item's time goes", xlabel="milliseconds per item")
    axes.spines[["top", "right"]].set_visible(False)
    if any(start):
        axes.legend(fontsize=8, frameon=False)


def _label(run: Run, runs: Sequence[Run]) -> str:
    how = " ".join(part for part in (run["runtime"], run["precision"]) if part)
    protocol = f", {run['protocol']}" if run["protocol"] else ""
    named = label(run, runs)[2:]
    return f"{named} ({how}{protocol})" if how else named


def _title(runs: Sequence[Mapping[str, Any]]) -> str:
    run = runs[-1]
    kilobytes = run["input_bytes_mean"] / 1e3
    workers = f", {run['processes']} workers" if run["processes"] else ""
    largest = max((r["batch"] or 0 for r in runs), default=0)
    batch = f", batch up to {largest}" if largest else ""
    return f"{run['model']}: requests of {kilobytes:.0f} KB{workers}{batch}"
