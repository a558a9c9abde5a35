"""Figures for people (tables on the screen) and for programs (JSON)."""

from __future__ import annotations

import json
import os
import shutil
import sys
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
"""Columns that a table may take where there is no screen to ask."""
FIGURES = ("mean", "p50", "p90", "p95", "p99", "max", "sd")
ORDER = ("queue", "input", *STAGES, "output")
"""Of the stages; others that a server names follow."""


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
    write_text(path, json.dumps(report, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """The same with a text."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as e:
        raise KitError(f"{path} cannot be written: {e.strerror}") from None


def tables(runs: Sequence[Run]) -> str:
    """The runs as tables, as wide as the screen, and what is to be said about them."""
    if not runs:
        return "nothing was measured"
    parts = [_latencies(runs), _shares(runs), gains(runs), *_comparison(runs), *_remarks(runs)]
    return "\n".join(part for part in parts if part)


def label(run: Run, runs: Sequence[Run]) -> str:
    """The run's mode, with its batch where its mode was measured with several."""
    batches = {other["batch"] for other in runs if other["mode"] == run["mode"]}
    return LABELS[run["mode"]] + (f", batch {run['batch']}" if len(batches) > 1 else "")


def load_of(run: Run) -> str:
    """What was asked of the server: requests in flight, or a rate."""
    if run.get("rate"):
        return f"rate {run['rate']:.5g}/s"
    return f"concurrency {run['concurrency']}"


def short_load(run: Run) -> str:
    """The same for a table's cell."""
    return f"{run['rate']:.4g}/s" if run.get("rate") else str(run["concurrency"])


def stages_of(runs: Sequence[Run]) -> list[str]:
    """The stages that any run has, in their order."""
    found = {stage for run in runs for stage in run["stages_ms"]}
    return [s for s in ORDER if s in found] + sorted(found.difference(ORDER))


def gains(runs: Sequence[Run]) -> str:
    """What the accelerated module gains, alone and end to end: each run against the portable
    module at the same concurrency, with that module's smallest batch. "" where none was measured.

    "model" is the stage "infer", for one item; "p50" and "req/s" are what a caller sees.
    """
    portable = {
        load_of(run): run
        for run in reversed(runs)
        if run["mode"] == LOCAL_PORTABLE and run["stages_ms"].get("infer") and run["throughput"]
    }
    rows = []
    for run in runs:
        base = portable.get(load_of(run))
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
        rows.append((label(run, runs), short_load(run), *cells))
    if not rows:
        return ""
    head = ("against 1 portable", "load", "model ms", "faster", "p50 ms", "faster", "req/s")
    return "\nthe model alone, and end to end\n" + table(head, rows, left=1)


def _latencies(runs: Sequence[Run]) -> str:
    opened = any(run.get("rate") for run in runs)
    late = ("late",) if opened else ()
    head = ("mode", "runtime", "precision", "load", "req/s", *FIGURES, *late, "errors")
    rows = [
        (
            label(run, runs),
            run["runtime"] or NONE,
            run["precision"] or NONE,
            short_load(run),
            _number(run["throughput"]),
            *(_number(run["latency_ms"][name]) for name in FIGURES),
            *(str(run.get("late", 0) + run.get("unsent", 0)) for _ in late),
            str(sum(run["errors"].values())),
        )
        for run in runs
    ]
    said = "latency in ms, from when a request was due" if opened else "latency in ms"
    return f"{said}\n{table(head, rows, left=3)}"


def _shares(runs: Sequence[Run]) -> str:
    """Where the time of a request goes, and what it took: "CPU", "front" and "client" are the
    processor times of the processes that run the model, of the server's front end and of the
    load's, "RSS MB" the resident memory of the largest process that runs the model."""
    stages = stages_of(runs)
    short = {"preprocess": "prep", "postprocess": "post"}
    head = (
        "mode", "load", *(short.get(s, s) for s in stages), "send", "wait", "recv",
        "CPU", "front", "client", "batch", "RSS MB",
    )  # fmt: skip
    rows = []
    for run in runs:
        client = run["client_ms"] or {}
        memory = run["worker_rss_mb"]
        rows.append(
            (
                str(run["mode"]),
                short_load(run),
                *(_number(run["stages_ms"].get(s)) for s in stages),
                *(_number(client.get(part)) for part in ("send", "wait", "receive")),
                *(_number(run[f"{who}_cpu_ms"]) for who in ("worker", "front", "client")),
                _number(run["items_per_batch"]),
                f"{max(memory):.0f}" if memory else NONE,
            )
        )
    return "\nms per item\n" + table(head, rows, left=1)


def _comparison(runs: Sequence[Run]) -> list[str]:
    """Served against local, where both were measured."""
    lines = []
    for mode in (LOCAL_ACCELERATED, LOCAL_PORTABLE):
        local = {load_of(r): r for r in runs if r["mode"] == mode}
        served = {load_of(r): r for r in runs if r["mode"] == SERVED}
        both = [load for load in served if load in local and local[load]["throughput"]]
        if not both:
            continue
        ratios = (
            f"{served[load]['throughput'] / local[load]['throughput']:.2f} ({load})"
            for load in both
        )
        lines.append(f"\nserved / local {LABELS[mode][2:]} throughput: {', '.join(ratios)}")
        lines.extend(_costs(local[both[-1]], served[both[-1]]))
        alone = "concurrency 1"
        if alone in both and local[alone]["runtime"] == served[alone]["runtime"]:
            ours, theirs = (r[alone]["latency_ms"]["p50"] for r in (served, local))
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
        f"processor ms per item ({load_of(served)}): {_number(alone)} local, "
        f"{_number(sum(parts))} served ({workers} + {front} front + {client} client)"
    ]


def _remarks(runs: Sequence[Run]) -> list[str]:
    lines: list[str] = []
    for run in runs:
        where = f"{LABELS[run['mode']]}, {load_of(run)}"
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


def screen_width() -> int:
    """Columns of the screen; ``WIDTH`` where the table goes elsewhere."""
    if not sys.stdout.isatty():
        return WIDTH
    return shutil.get_terminal_size((WIDTH, 24)).columns


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Aligned columns, the first ``left`` of them to the left.

    What is wider than the screen goes on below, with the columns to the left and the next one
    once more, so that each line still says what it is about.
    """
    width = screen_width()
    columns = list(zip(head, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= width else 1
    kept = min(left + 1, len(columns))
    blocks: list[list[int]] = [list(range(kept))]
    for i in range(kept, len(columns)):
        taken = sum(widths[j] + gap for j in blocks[-1])
        if taken + widths[i] > width and len(blocks[-1]) > kept:
            blocks.append(list(range(kept)))
        blocks[-1].append(i)
    lines = []
    for block in blocks:
        for row in (head, *rows):
            cells = (
                row[i].ljust(widths[i]) if i < left else row[i].rjust(widths[i]) for i in block
            )
            lines.append((" " * gap).join(cells).rstrip())
    return "\n".join(lines)
