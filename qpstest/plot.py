"""Throughput and latency over concurrency, and where the time goes, as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.errors import KitError
from qpstest.report import label
from qpstest.server_metrics import STAGES

COLOURS = {1: "#8a8a8a", 2: "#1d78be", 3: "#e6663c"}
STYLES = ("o-", "^--", "D-.")
"""Of the batch sizes of one mode, the smallest first."""
STAGE_COLOURS = ("#c9d6df", "#7a9cc6", "#e8e4d9", "#8fbf88", "#3b6ea8", "#e0a458", "#b56576")

Run = Mapping[str, Any]


def plot(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the runs to ``path``.

    Raises:
        KitError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise KitError(f"--plot: {e}: pip install matplotlib") from None
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    rate, time, parts = figure.subplots(1, 3)
    handles = []
    for mode, batch in sorted({(run["mode"], run["batch"] or 0) for run in runs}):
        same = [r for r in runs if r["mode"] == mode and (r["batch"] or 0) == batch]
        same.sort(key=lambda r: int(r["concurrency"]))
        x = [r["concurrency"] for r in same]
        colour, style = COLOURS[mode], _style(mode, batch, runs)
        (line,) = rate.plot(
            x, [r["throughput"] for r in same], style, color=colour, label=_label(same[0], runs)
        )
        handles.append(line)
        timed = [r for r in same if r["latency_ms"]["p50"] is not None]
        for name, dots in (("p50", style), ("p95", "s:")):
            y = [r["latency_ms"][name] for r in timed]
            time.plot([r["concurrency"] for r in timed], y, dots, color=colour)
    rate.set(title="Throughput", ylabel="requests / s", ylim=(0, None))
    time.set(title="Latency (line: p50, dots: p95)", ylabel="milliseconds", ylim=(0, None))
    ticks = sorted({run["concurrency"] for run in runs})
    for axes in (rate, time):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel("requests in flight")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _draw_stages(parts, runs)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(_title(runs), fontsize=11)
    try:
        figure.savefig(path, dpi=130, format="png")
    except OSError as e:
        raise KitError(f"--plot {path} cannot be written: {e.strerror}") from None


def _style(mode: int, batch: int, runs: Sequence[Run]) -> str:
    batches = sorted({run["batch"] or 0 for run in runs if run["mode"] == mode})
    return STYLES[batches.index(batch) % len(STYLES)]


def _draw_stages(axes: Any, runs: Sequence[Run]) -> None:
    """A bar for each run: its stages, milliseconds per item, stacked."""
    stages = ("queue", *STAGES)
    names = [f"{label(r, runs)}, {r['concurrency']} in flight" for r in runs]
    start = [0.0] * len(runs)
    for stage, colour in zip(stages, STAGE_COLOURS, strict=True):
        values = [r["stages_ms"].get(stage) or 0.0 for r in runs]
        if any(values):
            axes.barh(names, values, left=start, color=colour, label=stage)
        start = [a + b for a, b in zip(start, values, strict=True)]
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
