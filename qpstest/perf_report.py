"""The runs in the words and the shape of perf_analyzer, in microseconds, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from qpstest.report import label, load_of

Run = Mapping[str, Any]
INPUT = ("decode", "input", "preprocess")
OUTPUT = ("postprocess", "output", "encode")
PERCENTILES = ("p50", "p90", "p95", "p99")


def text(runs: Sequence[Run], percentile: str = "p95") -> str:
    """A block for each run, then inferences per second against a percentile of the latency."""
    if not runs:
        return "nothing was measured"
    blocks = [_block(run, runs) for run in runs]
    closing = [f"Inferences/Second vs. Client {percentile} Batch Latency"]
    for run in runs:
        latency = run["latency_ms"][percentile]
        said = f"{_title(run, runs)}, throughput: {run['throughput']:g} infer/sec, latency "
        closing.append(said + ("none" if latency is None else f"{_us(latency)} usec"))
    return "\n\n".join([*blocks, "\n".join(closing)])


def compute(run: Run) -> dict[str, float]:
    """Queue, compute input, infer and output in ms per request; "infer" is all that is neither."""
    stages = dict(run["stages_ms"])
    parts = {"queue": stages.pop("queue", 0.0) or 0.0}
    parts["input"] = sum(stages.pop(s, 0.0) or 0.0 for s in INPUT)
    parts["output"] = sum(stages.pop(s, 0.0) or 0.0 for s in OUTPUT)
    parts["infer"] = sum(value or 0.0 for value in stages.values())
    return parts


def _title(run: Run, runs: Sequence[Run]) -> str:
    several = len({(r["mode"], r["batch"]) for r in runs}) > 1
    mode = f"{label(run, runs)}, " if several else ""
    if run.get("rate"):
        return f"{mode}Request Rate: {run['rate']:g}"
    return f"{mode}Concurrency: {run['concurrency']}"


def _block(run: Run, runs: Sequence[Run]) -> str:
    title = _title(run, runs).replace("Concurrency:", "Request concurrency:")
    if run.get("rate"):
        title += " inference requests per seconds"
    lines = [title, "  Client:", f"    Request count: {run['succeeded']}"]
    if run.get("rate"):
        late = run.get("late", 0) + run.get("unsent", 0)
        lines.append(f"    Delayed Request Count: {late}")
    lines.append(f"    Throughput: {run['throughput']:g} infer/sec")
    for name in PERCENTILES:
        value = run["latency_ms"][name]
        if value is not None:
            lines.append(f"    {name} latency: {_us(value)} usec")
    failed = sum(run["errors"].values())
    if failed:
        lines.append(f"    Failed request count: {failed}")
    client = run["client_ms"]
    if client:
        moved = client["send"] + client["receive"]
        lines.append(
            f"    Avg HTTP time: {_us(moved + client['wait'])} usec (send/recv {_us(moved)} usec"
            f" + response wait {_us(client['wait'])} usec)"
        )
    return "\n".join([*lines, *_server(run)])


def _server(run: Run) -> list[str]:
    counts, parts = run.get("server_counts") or {}, compute(run)
    lines = []
    if counts:
        lines += [
            f"    Inference count: {counts['inferences']}",
            f"    Execution count: {counts['executions']}",
            f"    Successful request count: {counts['succeeded']}",
        ]
    if run["stages_ms"]:
        known = sum(parts.values())
        whole = max(run.get("server_ms") or known, known)
        lines.append(
            f"    Avg request latency: {_us(whole)} usec (overhead {_us(whole - known)} usec"
            f" + queue {_us(parts['queue'])} usec + compute input {_us(parts['input'])} usec"
            f" + compute infer {_us(parts['infer'])} usec"
            f" + compute output {_us(parts['output'])} usec)"
        )
    return ["  Server:", *lines] if lines else []


def _us(ms: float) -> int:
    return round(ms * 1e3)


def as_csv(runs: Sequence[Run]) -> str:
    """A head and a line for each run; latencies and stages in ms, processor time in ms."""
    latencies = [f"{name}_ms" for name in ("mean", *PERCENTILES, "max", "sd")]
    head = [
        "mode", "runtime", "precision", "protocol", "processes", "batch", "load", "concurrency",
        "rate", "arrivals", "requests", "succeeded", "errors", "late", "throughput", *latencies,
        "queue_ms", "input_ms", "infer_ms", "output_ms", "worker_cpu_ms", "front_cpu_ms",
        "client_cpu_ms", "items_per_batch", "largest_rss_mb", "date",
    ]  # fmt: skip
    out = io.StringIO()
    writer = csv.DictWriter(out, head, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for run in runs:
        parts = {f"{name}_ms": round(value, 3) for name, value in compute(run).items()}
        row = {
            **run,
            **(parts if run["stages_ms"] else {}),
            **{f"{name}_ms": value for name, value in run["latency_ms"].items()},
            "load": load_of(run),
            "errors": sum(run["errors"].values()),
            "late": run["late"] + run["unsent"] if "late" in run else "",
            "largest_rss_mb": max(run["worker_rss_mb"], default=""),
        }
        writer.writerow({k: "" if v is None else v for k, v in row.items()})
    return out.getvalue()
