"""The blocks of perf_analyzer, the CSV, and tables on narrow and wide screens."""

from __future__ import annotations

import csv
import io
import os
import sys
from typing import Any

import pytest

from qpstest import perf_report, report

LATENCY = {"mean": 70.9, "p50": 70.914, "p90": 72.0, "p95": 75.0, "p99": 80.5, "max": 99.0,
           "sd": 3.0}  # fmt: skip


def run(**more: Any) -> dict[str, Any]:
    return {
        "mode": 3, "runtime": "onnxruntime", "precision": "f32", "fallback": None,
        "concurrency": 4, "rate": None, "arrivals": None, "requests": 1015, "succeeded": 1015,
        "throughput": 56.385, "latency_ms": LATENCY, "errors": {}, "error_messages": {},
        "client_ms": {"send": 0.03, "wait": 70.837, "receive": 0.003},
        "stages_ms": {"queue": 53.0, "decode": 1.0, "preprocess": 0.5, "infer": 14.0,
                      "postprocess": 0.25, "encode": 0.125},
        "server_counts": {"inferences": 1015, "executions": 508, "succeeded": 1015},
        "server_ms": 69.0, "worker_rss_mb": [200.0], "worker_cpu_ms": 16.0, "front_cpu_ms": 0.5,
        "client_cpu_ms": 0.2, "items_per_batch": 2.0, "protocol": "http", "processes": 2,
        "batch": 2, "model": "fd1", "input_bytes_mean": 60000, "notes": [],
        "date": "2026-11-27T10:00:00+00:00", **more,
    }  # fmt: skip


def test_a_closed_loops_block() -> None:
    assert perf_report.text([run()]) == (
        """\
Request concurrency: 4
  Client:
    Request count: 1015
    Throughput: 56.385 infer/sec
    p50 latency: 70914 usec
    p90 latency: 72000 usec
    p95 latency: 75000 usec
    p99 latency: 80500 usec
    Avg HTTP time: 70870 usec (send/recv 33 usec + response wait 70837 usec)
  Server:
    Inference count: 1015
    Execution count: 508
    Successful request count: 1015
    Avg request latency: 69000 usec (overhead 125 usec + queue 53000 usec + compute input 1500 """
        """usec + compute infer 14000 usec + compute output 375 usec)

Inferences/Second vs. Client p95 Batch Latency
Concurrency: 4, throughput: 56.385 infer/sec, latency 75000 usec"""
    )


def test_an_open_loops_block_counts_what_was_late() -> None:
    opened = run(concurrency=None, rate=30.0, arrivals="poisson", late=3, unsent=1,
                 errors={"timeout": 2}, stages_ms={}, server_counts={})  # fmt: skip
    text = perf_report.text([opened], "p99")
    assert "Request Rate: 30 inference requests per seconds\n" in text
    assert "    Delayed Request Count: 4\n" in text
    assert "    Failed request count: 2\n" in text
    assert "Server" not in text
    assert text.endswith("Request Rate: 30, throughput: 56.385 infer/sec, latency 80500 usec")


def test_csv_has_a_line_a_run() -> None:
    opened = run(concurrency=None, rate=30.0, arrivals="poisson", late=3, unsent=1)
    rows = list(csv.DictReader(io.StringIO(perf_report.as_csv([run(), opened]))))
    assert [row["load"] for row in rows] == ["concurrency 4", "rate 30/s"]
    assert [row["late"] for row in rows] == ["", "4"]
    assert rows[0]["p99_ms"] == "80.5"
    assert rows[0]["sd_ms"] == "3.0"
    assert (rows[0]["queue_ms"], rows[0]["input_ms"]) == ("53.0", "1.5")
    assert rows[0]["rate"] == ""


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_tables_are_as_wide_as_the_screen(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(
        "shutil.get_terminal_size", lambda fallback: os.terminal_size((columns, 24))
    )
    text = report.tables([run(), run(concurrency=16, runtime="torchscript_cuda")])
    assert max(map(len, text.splitlines())) <= columns
    for name in ("mean", "p99", "max", "sd", "errors", "RSS MB", "queue"):
        assert name in text
    assert (text.count("\nmode ") > 2) == (columns == 80)  # folded, with its first columns again
