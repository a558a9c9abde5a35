"""Holds ``qpstest --plan`` against measured points: three rates, one worker and several.

    python benchmarks/plan.py [--archive model_store/fd1.mar] [--workers 1,2]
    python benchmarks/plan.py --sleep

Each number of workers (one thread, batch 1) is served and asked in closed loops, from which the
plan is made, then by Poisson arrivals at shares of the throughput that they reached. The plan
simulates the same arrivals. ``--sleep`` serves a handler that sleeps for times of a known spread:
what a machine computes in drifts by more than the queue's own error, what it sleeps does not.
Writes ``plan.json`` and ``plan.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.bench import serving  # noqa: E402
from qpstest.capacity import PERCENTILES  # noqa: E402
from tests.support.archives import write_archive  # noqa: E402

SLEEPER = """
import random
import time
class Handler:
    def initialize(self, context):
        self.dice = random.Random(1)
    def handle(self, rows, context):
        time.sleep(0.015 * self.dice.lognormvariate(0.0, 0.1))
        return [b"{}"] * len(rows)
"""
SHARES = (0.3, 0.55, 0.8)
"""Of the throughput in closed loops."""


def main() -> None:
    """Measures, plans and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, default=ROOT / "model_store" / "fd1.mar")
    parser.add_argument("--sleep", action="store_true", help="serve a handler that sleeps")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--seconds", type=float, default=60, help="of each open loop")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    found: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/plan.py", *sys.argv[1:]]),
        "plans": [],
    }
    for workers in map(int, given.workers.split(",")):
        with tempfile.TemporaryDirectory(prefix="kp-") as tmp:
            store = Path(tmp) / "store"
            store.mkdir()
            if given.sleep:
                archive = write_archive(store, "sleeper", SLEEPER)
            else:
                archive = Path(shutil.copy(given.archive, store))
            found["plans"].append(planned(archive, Path(tmp), workers, given.seconds))
    found["machine"] = found["plans"][0].pop("machine")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "plan.json").write_text(json.dumps(found, indent=1) + "\n")
    (given.out / "plan.md").write_text(table(found))
    print(table(found))


def planned(archive: Path, folder: Path, workers: int, seconds: float) -> dict[str, Any]:
    """What was measured with so many workers, and what the plan made of it."""
    values = {"workers": str(workers), "threads": "1", "batch_size": "1", "max_batch_delay": "1"}
    port = 18700 + 10 * workers
    with serving(archive.parent, folder, archive.stem, port, values):
        asked = ("--name", archive.stem, "--url", f"http://127.0.0.1:{port}")
        callers = ",".join(str(n) for n in range(1, workers + 1)) + f",{8 * workers}"
        closed = figures(folder / "closed.json", *asked, "--concurrency", callers,
                         "--duration", seconds / 4)  # fmt: skip
        most = max(run["throughput"] for run in closed["runs"])
        files = [folder / "closed.json"]
        for share in SHARES:
            files.append(folder / f"{share}.json")
            figures(files[-1], *asked, "--rate", round(share * most, 1), "--arrivals", "poisson",
                    "--duration", seconds)  # fmt: skip
    plan = figures(folder / "plan.json", "--plan", *files, "--rate", round(most / 2, 1))
    return {"machine": closed["machine"], "workers": workers, "most": most, **plan}


def figures(out: Path, *arguments: object) -> dict[str, Any]:
    """What one call of qpstest wrote."""
    command = [sys.executable, str(ROOT / "qpstest"), *map(str, arguments), "--json", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr, env=os.environ)
    return dict(json.loads(out.read_text()))


def table(found: dict[str, Any]) -> str:
    """Measured and simulated milliseconds, in Markdown."""
    machine = found["machine"]
    lines = [
        "# The plan against measured points",
        "",
        f"`{found['command']}`, {machine['cpu']}, {machine['cores']} cores",
        "",
        "Poisson arrivals; measured / simulated ms; in brackets the simulation against the "
        "measurement.",
        "",
        f"| workers | rate | share | {' | '.join(PERCENTILES)} |",
        "|---" * (3 + len(PERCENTILES)) + "|",
    ]
    for plan in found["plans"]:
        for check in plan["checks"]:
            cells = []
            for name in PERCENTILES:
                real, made = check["measured_ms"][name], check["simulated_ms"][name]
                cells.append(f"{real:.1f} / {made:.1f} ({made / real - 1:+.0%})")
            share = f"{check['rate'] / plan['most']:.0%}"
            lines.append(
                f"| {plan['workers']} | {check['rate']:g}/s | {share} | {' | '.join(cells)} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
