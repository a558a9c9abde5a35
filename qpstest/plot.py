"""Throughput and latency over concurrency, as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.errors import KitError
from qpstest.options import LABELS

COLOURS = {1: "#8a8a8a", 2: "#1d78be", 3: "#e6663c"}


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
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    rate, time = figure.subplots(1, 2)
    handles = []
    for mode in sorted({run["mode"] for run in runs}):
        of_mode = sorted((r for r in runs if r["mode"] == mode), key=lambda r: r["concurrency"])
        x = [r["concurrency"] for r in of_mode]
        colour = COLOURS[mode]
        (line,) = rate.plot(
            x, [r["throughput"] for r in of_mode], "o-", color=colour, label=_label(of_mode[0])
        )
        handles.append(line)
        timed = [r for r in of_mode if r["latency_ms"]["p50"] is not None]
        for name, style in (("p50", "o-"), ("p95", "s:")):
            y = [r["latency_ms"][name] for r in timed]
            time.plot([r["concurrency"] for r in timed], y, style, color=colour)
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
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(_title(runs), fontsize=11)
    try:
        figure.savefig(path, dpi=130, format="png")
    except OSError as e:
        raise KitError(f"--plot {path} cannot be written: {e.strerror}") from None


def _label(run: Mapping[str, Any]) -> str:
    how = " ".join(part for part in (run["runtime"], run["precision"]) if part)
    protocol = f", {run['protocol']}" if run["protocol"] else ""
    return f"{LABELS[run['mode']][2:]} ({how}{protocol})" if how else LABELS[run["mode"]][2:]


def _title(runs: Sequence[Mapping[str, Any]]) -> str:
    run = runs[-1]
    kilobytes = run["input_bytes_mean"] / 1e3
    workers = f", {run['processes']} workers" if run["processes"] else ""
    batch = f", batch up to {run['batch']}" if run["batch"] else ""
    return f"{run['model']}: requests of {kilobytes:.0f} KB{workers}{batch}"
