from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from handlers.errors import KitError
from qpstest import report, stats
from qpstest.plot import plot


def run(mode: int, concurrency: int, throughput: float, p50: float, **more: Any) -> dict[str, Any]:
    latency = dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max", "sd"), p50)
    return {
        "mode": mode,
        "runtime": "onnxruntime",
        "precision": "int8",
        "fallback": None,
        "concurrency": concurrency,
        "requests": 200,
        "throughput": throughput,
        "latency_ms": latency,
        "errors": {},
        "error_messages": {},
        "client_ms": {"send": 0.1, "wait": 123.456, "receive": 0.01} if mode == 3 else None,
        "stages_ms": {"queue": 12345.6, "decode": 123.4, "preprocess": 1.0, "infer": 1234.5,
                      "postprocess": 1.0, "encode": 0.1},
        "worker_rss_mb": [1234.5, 1300.1],
        "worker_cpu_ms": 1234.5,
        "front_cpu_ms": 1.2,
        "client_cpu_ms": 0.2,
        "items_per_batch": 16.0,
        "protocol": "http",
        "processes": 2,
        "batch": 16,
        "model": "fd1",
        "input_bytes_mean": 66000,
        "notes": [],
        **more,
    }  # fmt: skip


ROUNDS = ("p50", "p95", "p99")
RUNS = [
    run(2, 1, 20.0, 50.0),
    run(2, 16, 40.0, 400.0),
    run(3, 1, 18.0, 53.5, fallback="openvino is missing: the portable module serves"),
    run(3, 16, 38.0, 12345.0, errors={"overload": 7, "400": 1},
        error_messages={"overload": {"x": 7}, "400": {"BadInput: no picture": 1}}),
]  # fmt: skip


def test_tables_fit_and_compare() -> None:
    text = report.tables(RUNS)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "throughput: 0.90 (concurrency 1), 0.95 (concurrency 16)" in text
    assert "server adds at p50, concurrency 1: 3.50 ms (50.00 -> 53.50)" in text
    assert "(concurrency 16): 1234 local, 1236 served (1234 + 1.20 front + 0.20 client)" in text
    assert "3 served, concurrency 16: 7 x overload: the server's queue was full" in text
    assert "3 served, concurrency 16: 1 x 400: BadInput: no picture" in text
    assert "3 served: openvino is missing: the portable module serves" in text
    assert " 8\n" in text  # errors of the last run


def test_nothing_measured_is_said() -> None:
    assert report.tables([]) == "nothing was measured"
    failed = run(3, 1, 0.0, 1.0, latency_ms=dict.fromkeys(report.FIGURES), stages_ms={})
    assert "0.00" in report.tables([failed])


def test_json_replaces_the_old_file_or_leaves_it(tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    report.write_json(target, {"runs": []})
    with pytest.raises(ValueError, match="Out of range"):
        report.write_json(target, {"runs": float("nan")})
    assert json.loads(target.read_text()) == {"runs": []}
    assert [p.name for p in tmp_path.iterdir()] == ["figures.json"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="a folder is there"):
        report.check_writable("--json", tmp_path)
    with pytest.raises(KitError, match="cannot be written"):
        report.check_writable("--json", Path("/proc/none/x.json"))
    report.check_writable("--json", tmp_path / "new" / "x.json")
    assert list((tmp_path / "new").iterdir()) == []


def test_plot_is_a_png_of_a_fixed_size(tmp_path: Path) -> None:
    plot(RUNS, tmp_path / "plot.png")
    data = (tmp_path / "plot.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == (1950, 1196)


def test_gains_of_the_model_alone_and_end_to_end() -> None:
    slow = {"infer": 1000.0, "decode": 100.0}
    runs = [
        run(1, 1, 0.5, 2000.0, batch=1, stages_ms=slow),
        run(1, 1, 0.4, 2500.0, batch=4, stages_ms=slow),
        run(2, 1, 2.0, 500.0, batch=1, stages_ms={"infer": 125.0, "decode": 100.0}),
        run(2, 4, 2.0, 500.0, batch=1, stages_ms={"infer": 125.0}),
    ]
    text = report.gains(runs)
    assert [line.split() for line in text.splitlines()[3:]] == [
        ["1", "portable,", "batch", "4", "1", "1000", "1.00x", "2500", "0.80x", "0.80x"],
        ["2", "accelerated", "1", "125.0", "8.00x", "500.0", "4.00x", "4.00x"],
    ]
    assert report.gains(runs[2:]) == ""
    assert text in report.tables(runs)
    assert "2 accelerated " in report.tables(runs)


def test_batches_of_one_mode_are_kept_apart(tmp_path: Path) -> None:
    runs = [run(2, c, 20.0 + b, 50.0, batch=b) for b in (1, 4) for c in (1, 4)]
    assert stats.median_rounds([*runs, *runs]) == [
        {**r, "rounds": [r["throughput"]] * 2, "rounds_ms": {p: [50.0] * 2 for p in ROUNDS}}
        for r in runs
    ]
    text = report.tables(runs)
    assert "2 accelerated, batch 1" in text
    assert "2 accelerated, batch 4" in text
    plot(runs, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 20_000
