"""Open loops, limits and reports as a user asks for them."""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.torchserve.server import Server
from tests.support.archives import write_archive
from tests.support.stand_in import stand_in

ROOT = Path(__file__).resolve().parents[2]


def qpstest(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "qpstest"), *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )


def record(url: str) -> list[float]:
    with urllib.request.urlopen(f"{url}/record") as answer:
        return list(json.load(answer))


@pytest.mark.alone
@pytest.mark.parametrize(
    ("mode", "arrivals"),
    [
        ("stall", "constant"),
        *(
            pytest.param(mode, arrivals, marks=pytest.mark.slow)
            for mode, arrivals in (
                ("const", "constant"),
                ("const", "poisson"),
                ("tail", "poisson"),
                ("tail", "constant"),
                ("stall", "poisson"),
            )
        ),
    ],
)
def test_percentiles_are_those_of_the_servers_own_record(
    mode: str, arrivals: str, tmp_path: Path
) -> None:
    """On a machine that others use the client sees some more; the standstill is no less."""
    figures = tmp_path / "a.json"
    with stand_in(mode) as url:
        done = qpstest(
            "--server", "url", "--url", f"{url}/x", "--rate", 40, "--arrivals", arrivals,
            "--duration", 10, "--warmup", 0, "--json", figures,
        )  # fmt: skip
        served = record(url)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(figures.read_text())["runs"]
    assert run["succeeded"] == pytest.approx(400, rel=0.15)
    assert run["offered"] == pytest.approx(run["succeeded"] / 10, rel=0.01)
    for name, share in (("p50", 50), ("p95", 95), ("p99", 99)):
        own = float(np.percentile(served, share)) * 1e3
        assert 0.93 * own < run["latency_ms"][name] < 1.15 * own + 15, name
    if mode == "stall":
        assert run["latency_ms"]["p99"] > 400
        assert run["latency_ms"]["max"] >= run["latency_ms"]["p99"]


def test_a_closed_loop_says_that_the_server_stood_still(tmp_path: Path) -> None:
    with stand_in("stall") as url:
        asked = ("--server", "url", "--url", url, "--concurrency", 1, "--requests", 400)
        done = qpstest(*asked, "--json", tmp_path / "a.json")
    assert "a closed loop waits meanwhile" in done.stdout
    assert "measure with --rate" in done.stdout
    (run,) = json.loads((tmp_path / "a.json").read_text())["runs"]
    assert run["latency_ms"]["max"] > 400
    # On a slow machine four of the 400 meet a standstill, and p99 is one of them.
    assert run["latency_ms"]["max"] > 5 * run["latency_ms"]["p90"]
    with stand_in("tail") as url:
        done = qpstest("--server", "url", "--url", url, "--concurrency", 4, "--requests", 400)
    assert "closed loop waits" not in done.stdout  # slow answers are no standstill


@pytest.mark.slow
def test_the_highest_rate_within_a_limit(
    server_factory: Callable[..., Server], tmp_path: Path
) -> None:
    code = """
import time
class Handler:
    def initialize(self, context):
        pass
    def handle(self, rows, context):
        time.sleep(0.02)
        return [b"{}"] * len(rows)
"""
    store = tmp_path / "store"
    store.mkdir()
    write_archive(store, "fd1", code)
    server = server_factory(store)
    url = f"http://127.0.0.1:{server.settings.port}"
    figures, plot, table = (tmp_path / n for n in ("a.json", "a.png", "a.csv"))
    done = qpstest(
        "--url", url, "--latency-limit", "p95=250", "--duration", 1.5, "--json", figures, "--plot",
        plot, "--csv", table,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "requests/s are the most within p95=250 ms" in done.stdout
    report = json.loads(figures.read_text())
    (run,) = report["runs"]
    assert 20 < run["rate"] <= 50  # one worker, 20 ms a request
    assert run["latency_ms"]["p95"] <= 250
    assert len(report["tried"]) >= 4
    assert report["limit"] == "p95=250"
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert next(csv.DictReader(table.read_text().splitlines()))["arrivals"] == "constant"
    none = qpstest("--url", url, "--latency-limit", "p50=5", "--duration", 1)
    assert none.returncode == 1
    assert "no rate meets p50=5 ms; the closest was" in none.stdout


def test_open_loops_on_torchserve_both_protocols_and_perfs_report(
    echo_server: Server, tmp_path: Path
) -> None:
    base = ("--url", f"http://127.0.0.1:{echo_server.settings.port}", "--grpc-port",
            echo_server.settings.grpc_port, "--duration", 3, "--rate", "20:60:40",
            "--arrivals", "poisson")  # fmt: skip
    for protocol in ("http", "grpc"):
        figures = tmp_path / f"{protocol}.json"
        done = qpstest(*base, "--protocol", protocol, "--report", "perf", "--json", figures,
                       "--clients", 2)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Request Rate: 20 inference requests per seconds" in done.stdout
        assert "Inferences/Second vs. Client p95 Batch Latency" in done.stdout
        runs = json.loads(figures.read_text())["runs"]
        assert [(r["rate"], r["concurrency"], r["errors"]) for r in runs] == [
            (20, None, {}), (60, None, {})
        ]  # fmt: skip
        assert all(r["late"] + r["requests"] > 0 for r in runs)
    compared = qpstest("--compare", tmp_path / "http.json", tmp_path / "http.json")
    assert compared.returncode == 0
    assert "1.000" in compared.stdout
    merged = qpstest("--merge", tmp_path / "http.json", tmp_path / "grpc.json")
    assert merged.returncode == 0
    assert "2 runs merged" in merged.stdout


def test_recorded_arrivals(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.1, 0.1, 1.0]
    (tmp_path / "times").write_text("\n".join(map(str, times)))
    with stand_in("const") as url:
        done = qpstest("--server", "url", "--url", url, "--arrivals", tmp_path / "times",
                       "--warmup", 0, "--json", tmp_path / "a.json")  # fmt: skip
        assert len(record(url)) == 5 + 1  # and one that asks for the runtime
    assert done.returncode == 0, done.stderr
    (run,) = json.loads((tmp_path / "a.json").read_text())["runs"]
    assert (run["succeeded"], run["arrivals"], run["rate"]) == (5, "recorded", 4.0)
    assert 1.0 < run["seconds"] < 1.3


def test_broken_files_of_a_folder_are_named(tmp_path: Path) -> None:
    good = sorted((ROOT / "examples" / "pictures").glob("*.jpg"))[0].read_bytes()
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(good)
    (folder / "b.jpg").write_bytes(good[: len(good) // 2])
    (folder / "c.png").write_bytes(b"no picture")
    with stand_in("const") as url:
        done = qpstest("--server", "url", "--url", url, "--input", folder, "--requests", 5,
                       "--concurrency", 1, "--json", tmp_path / "a.json")  # fmt: skip
    assert done.returncode == 0
    assert "warning: --input: b.jpg: " in done.stderr
    assert "warning: --input: c.png: " in done.stderr
    assert json.loads((tmp_path / "a.json").read_text())["inputs"] == ["a.jpg"]


def test_a_rate_above_what_can_be_sent_is_named(tmp_path: Path) -> None:
    with stand_in("const") as url:
        done = qpstest("--server", "url", "--url", url, "--rate", 30000, "--requests", 3000,
                       "--connections", 2000, "--json", tmp_path / "a.json")  # fmt: skip
    (run,) = json.loads((tmp_path / "a.json").read_text())["runs"]
    assert run["late"] > 100
    assert run["requests"] == 3000  # late, not dropped
    assert "this generator can send" in done.stdout
    assert "above its ceiling" in done.stdout


def test_a_server_that_dies_between_rounds(tmp_path: Path) -> None:
    with stand_in("const") as url:
        alive = qpstest("--server", "url", "--url", url, "--requests", 20, "--concurrency", 2,
                        "--json", tmp_path / "a.json")  # fmt: skip
    dead = qpstest("--server", "url", "--url", url, "--requests", 20, "--concurrency", 2)
    assert alive.returncode == 0
    assert dead.returncode == 1
    assert "is the server (url) running there?" in dead.stderr
    assert "run.sh" not in dead.stderr


def plan_runs(workers: int) -> dict[str, Any]:
    """Closed loops of an ideal server with 20 ms a request."""
    from qpstest import histograms, stats

    runs = []
    for callers in (1, workers, 4 * workers):
        mean = 0.02 * max(1.0, callers / workers)
        values = [mean] * 100
        runs.append({
            "mode": 3, "concurrency": callers, "rate": None, "arrivals": None, "batch": 1,
            "processes": workers, "throughput": min(callers, workers) / 0.02,
            "latency_ms": stats.latency_ms(values), "histogram": histograms.encode(values),
            "stages_ms": {}, "model": "fd1", "runtime": None, "precision": None,
        })  # fmt: skip
    return {"runs": runs}


def test_a_plan(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(plan_runs(2)))
    asked = ("--plan", tmp_path / "a.json", "--rate", 1000, "--latency-limit", "p99=60")
    done = qpstest(*asked, "--json", tmp_path / "plan.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PLAN: a simulation, not a measurement")
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert 14 <= plan["machines"] <= 30  # 10 could just answer so many, with a queue without end
    assert statistics.mean(r["busy"] for r in plan["rows"]) < 0.8
    assert qpstest(*asked).stdout == done.stdout
    wrong = qpstest("--plan", tmp_path / "a.json")
    assert wrong.returncode == 1
    assert "one --rate was expected" in wrong.stderr
