"""Figures for people (tables on the screen) and for programs (JSON)."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.errors import KitError
from qpstest.options import LABELS, LOCAL_ACCELERATED, LOCAL_PORTABLE, SERVED
from qpstest.server_metrics import STAGES

Run = Mapping[str, Any]
NONE = "-"
WIDTH = 100
"""Columns of the screen that a table may take."""
PERCENTILES = ("mean", "p50", "p90", "p95", "p99")


def check_writable(flag: str, path: Path) -> None:
    """Raise ``KitError`` where ``path`` cannot be written, before minutes are spent measuring."""
    folder = path.absolute().parent
    if path.is_dir():
        raise KitError(f"{flag} {path}: a folder is there; the name of a file was expected")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise KitError(f"{flag} {path} cannot be written: {e.strerror}") from None


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write to a temporary file beside ``path``, then rename; raises ``KitError``."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(report, file, indent=2, allow_nan=False)
                file.write("\n")
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as e:
        raise KitError(f"{path} cannot be written: {e.strerror}") from None


def tables(runs: Sequence[Run]) -> str:
    """The runs as tables, at most 100 columns wide, and what is to be said about them."""
    if not runs:
        return "nothing was measured"
    parts = [_latencies(runs), _shares(runs), gains(runs), *_comparison(runs), *_remarks(runs)]
    return "\n".join(part for part in parts if part)


def label(run: Run, runs: Sequence[Run]) -> str:
    """The run's mode, with its batch where its mode was measured with several."""
    batches = {other["batch"] for other in runs if other["mode"] == run["mode"]}
    return LABELS[run["mode"]] + (f", batch {run['batch']}" if len(batches) > 1 else "")


def gains(runs: Sequence[Run]) -> str:
    """What the accelerated module gains, alone and end to end: each run against the portable
    module at the same concurrency, with that module's smallest batch. "" where none was measured.

    "model" is the stage "infer", for one item; "p50" and "req/s" are what a caller sees.
    """
    portable = {
        run["concurrency"]: run
        for run in reversed(runs)
        if run["mode"] == LOCAL_PORTABLE and run["stages_ms"].get("infer") and run["throughput"]
    }
    rows = []
    for run in runs:
        base = portable.get(run["concurrency"])
        model, p50 = run["stages_ms"].get("infer"), run["latency_ms"]["p50"]
        if base is None or run is base or not model or not p50:
            continue
        ratios = (
            base["stages_ms"]["infer"] / model,
            base["latency_ms"]["p50"] / p50,
            run["throughput"] / base["throughput"],
        )
        shown = [f"{ratio:.2f}x" for ratio in ratios]
        cells = (_number(model), shown[0], _number(p50), shown[1], shown[2])
        rows.append((label(run, runs), str(run["concurrency"]), *cells))
    if not rows:
        return ""
    head = ("against 1 portable", "conc", "model ms", "faster", "p50 ms", "faster", "req/s")
    return "\nthe model alone, and end to end\n" + _table(head, rows, left=1)


def _latencies(runs: Sequence[Run]) -> str:
    head = ("mode", "runtime", "precision", "conc", "req/s", *PERCENTILES, "errors")
    rows = [
        (
            label(run, runs),
            run["runtime"] or NONE,
            run["precision"] or NONE,
            str(run["concurrency"]),
            _number(run["throughput"]),
            *(_number(run["latency_ms"][p]) for p in PERCENTILES),
            str(sum(run["errors"].values())),
        )
        for run in runs
    ]
    return "latency in ms\n" + _table(head, rows, left=3)


def _shares(runs: Sequence[Run]) -> str:
    """Where the time of a request goes, and what it took: "CPU", "front" and "client" are the
    processor times of the processes that run the model, of the server's front end and of the
    load's, "RSS MB" the resident memory of the largest process that runs the model."""
    stages = [s for s in ("queue", *STAGES) if any(s in run["stages_ms"] for run in runs)]
    short = {"preprocess": "prep", "postprocess": "post"}
    head = (
        "mode", "conc", *(short.get(s, s) for s in stages), "send", "wait", "recv",
        "CPU", "front", "client", "batch", "RSS MB",
    )  # fmt: skip
    rows = []
    for run in runs:
        client = run["client_ms"] or {}
        memory = run["worker_rss_mb"]
        rows.append(
            (
                str(run["mode"]),
                str(run["concurrency"]),
                *(_number(run["stages_ms"].get(s)) for s in stages),
                *(_number(client.get(part)) for part in ("send", "wait", "receive")),
                *(_number(run[f"{who}_cpu_ms"]) for who in ("worker", "front", "client")),
                _number(run["items_per_batch"]),
                f"{max(memory):.0f}" if memory else NONE,
            )
        )
    return "\nms per item\n" + _table(head, rows, left=1)


def _comparison(runs: Sequence[Run]) -> list[str]:
    """Served against local, where both were measured."""
    lines = []
    for mode in (LOCAL_ACCELERATED, LOCAL_PORTABLE):
        local = {r["concurrency"]: r for r in runs if r["mode"] == mode}
        served = {r["concurrency"]: r for r in runs if r["mode"] == SERVED}
        both = [c for c in served if c in local and local[c]["throughput"]]
        if not both:
            continue
        ratios = (
            f"{served[c]['throughput'] / local[c]['throughput']:.2f} (concurrency {c})"
            for c in both
        )
        lines.append(f"\nserved / local {LABELS[mode][2:]} throughput: {', '.join(ratios)}")
        lines.extend(_costs(local[both[-1]], served[both[-1]]))
        if 1 in both and local[1]["runtime"] == served[1]["runtime"]:
            ours, theirs = (r[1]["latency_ms"]["p50"] for r in (served, local))
            if ours is not None and theirs is not None:
                lines.append(
                    f"server adds at p50, concurrency 1: {ours - theirs:.2f} ms "
                    f"({theirs:.2f} -> {ours:.2f})"
                )
    return lines


def _costs(local: Run, served: Run) -> list[str]:
    """Processor time for each item, which other work on the machine hardly changes."""
    alone = local["worker_cpu_ms"]
    parts = [served[f"{who}_cpu_ms"] for who in ("worker", "front", "client")]
    if local["runtime"] != served["runtime"] or not alone or None in parts:
        return []
    workers, front, client = map(_number, parts)
    return [
        f"processor ms per item (concurrency {served['concurrency']}): {_number(alone)} local, "
        f"{_number(sum(parts))} served ({workers} + {front} front + {client} client)"
    ]


def _remarks(runs: Sequence[Run]) -> list[str]:
    lines: list[str] = []
    for run in runs:
        where = f"{LABELS[run['mode']]}, concurrency {run['concurrency']}"
        for kind, messages in run["error_messages"].items():
            count = run["errors"][kind]
            text = "; ".join(messages)
            if kind == "overload":
                text = "the server's queue was full"
            lines.append(f"{where}: {count} x {kind}{f': {text}' if text else ''}")
        lines.extend(f"{where}: {note}" for note in run["notes"])
    for run in runs:
        if run["fallback"]:
            lines.append(f"{LABELS[run['mode']]}: {run['fallback']}")
    return ["", *dict.fromkeys(lines)] if lines else []


def _number(value: float | None) -> str:
    if value is None:
        return NONE
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Aligned columns, the first ``left`` of them to the left."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    lines = []
    for row in (head, *rows):
        cells = (
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(gap.join(cells).rstrip())
    return "\n".join(lines)
