"""Holds qpstest against a server that knows its own times, and against three other load testers.

    python benchmarks/testers.py [--rounds 5] [--seconds 6] [--out benchmarks/results]

Three parts; each asks a stand-in whose answers take times of its own, and which keeps a record of
them. ``record``: percentiles of an open loop beside that record, as the machine is and with a busy
process on every core. ``beside``: closed and open loops beside perf_analyzer, wrk and hey where
they are installed (``PATH``), in turns, each tester meeting the same sequence of times; medians of
the rounds. ``ceiling``: 1,000 requests a second from one core to a server that does nothing.
Writes ``testers.json`` and ``testers.md``.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from qpstest import ceiling, machine  # noqa: E402
from qpstest.report import table  # noqa: E402
from qpstest.stats import percentile  # noqa: E402
from tests.support.stand_in import stand_in  # noqa: E402

Figures = dict[str, float]
"""``rate`` in requests per second, ``p50``, ``p95``, ``p99`` in milliseconds."""

PERCENTILES = ("p50", "p95", "p99")
RATES = (None, 30, 100)
"""Closed loops, and requests per second."""

CALLERS = 4
BODY = b"x" * 1000


def main() -> None:
    """Runs the parts that are asked for and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each tester")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--parts", default="record,beside,ceiling")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kb-") as tmp:
        body = Path(tmp) / "body"
        body.write_bytes(BODY)
        parts: dict[str, Callable[[], Any]] = {
            "record": lambda: record(body, 3 * given.seconds),
            "beside": lambda: beside(body, given.rounds, given.seconds),
            "ceiling": lambda: [one_core(body, given.seconds) for _ in range(given.rounds)],
        }
        given.out.mkdir(parents=True, exist_ok=True)
        kept = given.out / "testers.json"
        found = json.loads(kept.read_text()) if kept.exists() else {}
        about = machine.describe()
        for part in given.parts.split(","):
            found[part] = {
                "command": " ".join(["python benchmarks/testers.py", *sys.argv[1:]]),
                "machine": f"{about['cpu']}, {about['cores']} cores",
                "rows": parts[part](),
            }
    kept.write_text(json.dumps(found, indent=1) + "\n")
    os.environ["COLUMNS"] = "160"
    (given.out / "testers.md").write_text(written(found))
    print(written(found))


def qpstest(url: str, body: Path, *arguments: object, core: int | None = None) -> dict[str, Any]:
    """One run's record from its JSON file."""
    out = body.parent / "figures.json"
    command = [
        sys.executable, str(ROOT / "qpstest"), "--server", "url", "--url", f"{url}/predictions/x",
        "--input", str(body), "--warmup", "0", "--json", str(out), *map(str, arguments),
    ]  # fmt: skip
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"qpstest: {done.stderr}")
    (run,) = json.loads(out.read_text())["runs"]
    return dict(run)


def figures(run: dict[str, Any]) -> Figures:
    """Of one run of qpstest."""
    return {"rate": run["throughput"], **{name: run["latency_ms"][name] for name in PERCENTILES}}


def record(body: Path, seconds: float) -> list[dict[str, Any]]:
    """An open loop of 30 requests a second beside the server's own record, in ms."""
    rows = []
    for busy in (False, True):
        for mode in ("const", "tail", "spread", "stall"):
            for arrivals in ("constant", "poisson"):
                with stand_in(mode, 5.0) as url, burning() if busy else nullcontext():
                    asked = ("--rate", 30, "--arrivals", arrivals, "--duration", seconds)
                    run = qpstest(url, body, *asked)
                    with urlopen(f"{url}/record") as answer:
                        own = json.load(answer)
                own = sorted(own[-run["requests"] :])  # others came before: a lead-in
                seen = figures(run)
                rows.append({
                    "mode": mode, "arrivals": arrivals, "busy": busy, "seen": seen,
                    "own": {n: 1e3 * percentile(own, int(n[1:]) / 100) for n in PERCENTILES},
                })  # fmt: skip
    return rows


@contextmanager
def burning() -> Iterator[None]:
    """A process on each core that does nothing but compute."""
    busy = [multiprocessing.Process(target=burn, daemon=True) for _ in range(os.cpu_count() or 1)]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.join()


def burn() -> None:
    """Until it is killed."""
    while True:
        sum(range(10_000))


def beside(body: Path, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """The testers in turns, closed loops and a fixed rate; medians and all rounds."""
    testers = {"qpstest": ours, "perf_analyzer": perf_analyzer, "wrk": wrk, "hey": hey}
    there = [name for name in testers if name == "qpstest" or shutil.which(name)]
    rows = []
    for mode in ("const", "spread"):
        for rate in RATES:
            taken: dict[str, list[Figures]] = {name: [] for name in there}
            for turn in range(rounds):
                for name in there[turn % len(there) :] + there[: turn % len(there)]:
                    if rate is None or name != "wrk":  # which knows no rate
                        with stand_in(mode) as url:
                            taken[name].append(testers[name](url, body, rate, seconds))
            for name, turns in taken.items():
                if turns:
                    middle = {key: median(one[key] for one in turns) for key in turns[0]}
                    rows.append({
                        "mode": mode, "rate": rate, "tester": name, "median": middle,
                        "rounds": turns,
                    })  # fmt: skip
    return rows


def ours(url: str, body: Path, rate: int | None, seconds: float) -> Figures:
    """One run of qpstest."""
    how = ("--rate", rate) if rate else ("--concurrency", CALLERS)
    return figures(qpstest(url, body, *how, "--duration", seconds))


def perf_analyzer(url: str, body: Path, rate: int | None, seconds: float) -> Figures:
    """One run of Triton's tester in its way of asking TorchServe."""
    out, data = body.parent / "perf.csv", body.parent / "data.json"
    data.write_text(json.dumps({"data": [{"TORCHSERVE_INPUT": [str(body)]}]}))
    how = ["--request-rate-range", str(rate)] if rate else ["--concurrency-range", str(CALLERS)]
    done = subprocess.run(
        ["perf_analyzer", "-m", "x", "--service-kind", "torchserve", "-i", "http", "-u",
         url.removeprefix("http://"), "--input-data", str(data), *how, "--percentile", "95",
         "-p", str(int(1000 * seconds / 3)), "-r", "3", "-s", "90", "-f", str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not out.exists():
        raise SystemExit(f"perf_analyzer: {done.stdout}")
    (row,) = csv.DictReader(out.read_text().splitlines())
    out.unlink()
    times = {name: float(row[f"{name} latency"]) / 1e3 for name in PERCENTILES}
    return {"rate": float(row["Inferences/Second"]), **times}


def wrk(url: str, body: Path, rate: int | None, seconds: float) -> Figures:
    """One run; its percentiles are asked of it by a script, since it prints no p95."""
    script = body.parent / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.body = string.rep("x", {len(BODY)})\n'
        "function done(summary, latency, requests)\n"
        '  io.write(string.format("figures %f %f %f %f\\n", summary.requests * 1e6 / '
        "summary.duration, latency:percentile(50), latency:percentile(95), "
        "latency:percentile(99)))\nend\n"
    )
    said = subprocess.run(
        ["wrk", "-t1", f"-c{CALLERS}", f"-d{int(seconds)}s", "-s", str(script), f"{url}/x"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = re.search(r"figures (\S+) (\S+) (\S+) (\S+)", said)
    if not found:
        raise SystemExit(f"wrk: {said}")
    per_second, *times = map(float, found.groups())
    return {
        "rate": per_second,
        **{n: t / 1e3 for n, t in zip(PERCENTILES, times, strict=True)},
    }


def hey(url: str, body: Path, rate: int | None, seconds: float) -> Figures:
    """One run; its rate is a bound of each of its callers."""
    how = ["-q", str(rate // CALLERS)] if rate else []
    said = subprocess.run(
        ["hey", "-z", f"{int(seconds)}s", "-c", str(CALLERS), *how, "-m", "POST", "-D", str(body),
         f"{url}/x"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    times = dict(re.findall(r"(\d\d)%+ in ([\d.]+) secs", said))
    per_second = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if not per_second:
        raise SystemExit(f"hey: {said}")
    return {
        "rate": float(per_second[1]),
        **{name: 1e3 * float(times[name[1:]]) for name in PERCENTILES},
    }


def one_core(body: Path, seconds: float) -> Figures:
    """1,000 requests a second, generator and its parent on one core, the server on another."""
    with ceiling.nothing() as url:
        run = qpstest(url, body, "--rate", 1000, "--duration", seconds, core=0)
    return {
        "sent": run["offered"],
        "answered": run["throughput"],
        "late": run["late"],
        "lateness_p50": run["lateness_ms"]["p50"],
        "lateness_p99": run["lateness_ms"]["p99"],
        "cpu_ms": run["client_cpu_ms"],
    }


def written(found: dict[str, Any]) -> str:
    """The page."""
    parts = [("record", of_record), ("beside", of_others), ("ceiling", of_one_core)]
    lines = ["# qpstest beside the server's own record and other testers"]
    for name, page in parts:
        if name in found:
            title, text, head, left, cells = page(found[name]["rows"])
            run = f"`{found[name]['command']}`, {found[name]['machine']}. {text}"
            lines += ["", f"## {title}", "", run, "", "```", table(head, cells, left), "```"]
    return "\n".join(lines) + "\n"


Page = tuple[str, str, tuple[str, ...], int, list[tuple[str, ...]]]
"""Title, text, and a table: its head, how many columns stand to the left, its cells."""


def of_record(rows: list[dict[str, Any]]) -> Page:
    """Percentiles seen and recorded."""
    cells = [
        (
            row["mode"],
            row["arrivals"],
            "busy" if row["busy"] else "quiet",
            *(f"{row['seen'][n]:.2f} / {row['own'][n]:.2f}" for n in PERCENTILES),
            f"{max(abs(row['seen'][n] / row['own'][n] - 1) for n in PERCENTILES):.1%}",
        )
        for row in rows
    ]
    heads = ("server", "arrivals", "cores", *(f"{n} seen / own" for n in PERCENTILES), "most")
    return "Beside the server's own record", "30 requests a second, ms.", heads, 3, cells


def of_others(rows: list[dict[str, Any]]) -> Page:
    """Medians of each tester, and qpstest against them."""
    mine = {(r["mode"], r["rate"]): r["median"] for r in rows if r["tester"] == "qpstest"}
    cells = []
    for row in rows:
        ours, theirs = mine[row["mode"], row["rate"]], row["median"]
        against = (
            f"{theirs[key]:.2f} ({ours[key] / theirs[key] - 1:+.1%})"
            for key in ("rate", *PERCENTILES)
        )
        kind = f"{row['rate']}/s" if row["rate"] else "closed"
        cells.append((row["mode"], kind, row["tester"], *against))
    text = f"{CALLERS} callers or a fixed rate, ms; in brackets qpstest against that tester."
    head = ("server", "loop", "tester", "requests/s", *PERCENTILES)
    return "Beside other testers", text, head, 3, cells


def of_one_core(rows: list[dict[str, Any]]) -> Page:
    """What each round sent, and how late."""
    cells = [tuple(f"{value:.4g}" for value in row.values()) for row in rows]
    text = "1,000 requests a second from one core; ms, a row a round."
    return "The generator's cost", text, tuple(rows[0]), 0, cells


if __name__ == "__main__":
    main()
