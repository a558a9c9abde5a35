"""Measures what run.sh's defaults should be: workers, threads, batch size and batch delay.

    python benchmarks/sweep.py [--archive model_store/fd1.mar]
    python benchmarks/sweep.py --archive DIR/s.mar --settings 2x4:64:1,4x4:32:1 \\
        --concurrency 1,16,256 --pictures DIR --name settings-gpu

Each setting is served in turn and asked by the tester; writes ``settings.json`` and
``settings.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.bench import CONCURRENCY, serving, tester  # noqa: E402
from deploy.torchserve.settings import cores  # noqa: E402

Setting = tuple[int, int, int, int]
"""Workers, threads each, batch size, batch delay in ms."""


def main() -> None:
    """Serves the archive with each setting and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, default=ROOT / "model_store" / "fd1.mar")
    parser.add_argument("--seconds", type=float, default=8, help="per setting and concurrency")
    parser.add_argument("--settings", type=settings, default=choices(cores()))
    parser.add_argument("--concurrency", default=",".join(map(str, CONCURRENCY)))
    parser.add_argument("--clients", default="1", help="processes that make the load")
    parser.add_argument("--warm", type=float, default=0, help="seconds of load before")
    parser.add_argument("--queue", default="1000")
    parser.add_argument("--pictures", type=Path, default=ROOT / "examples" / "pictures")
    parser.add_argument("--name", default="settings", help="of the files that are written")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/sweep.py", *sys.argv[1:]]),
        "settings": [],
    }
    measure(given, result)
    print(table(result))


def measure(given: argparse.Namespace, result: dict[str, Any]) -> None:
    """Serves the archive with each setting; writes what there is so far after each."""
    for i, (workers, threads, batch, delay) in enumerate(given.settings):
        with tempfile.TemporaryDirectory(prefix="ks-") as tmp:
            store = Path(tmp) / "store"
            store.mkdir()
            shutil.copy(given.archive, store)
            values = {
                "workers": str(workers),
                "threads": str(threads),
                "batch_size": str(batch),
                "max_batch_delay": str(delay),
                "queue": given.queue,
            }
            name, port = given.archive.stem, 18600 + 10 * i
            with serving(store, Path(tmp), name, port, values):
                ask = partial(tester, Path(tmp), given.pictures, clients=given.clients)
                if given.warm:
                    ask(given.warm, "3", name, port, "64")
                figures = ask(given.seconds, "3", name, port, given.concurrency)
        result["machine"], result["versions"] = figures["machine"], figures["versions"]
        result["settings"].append({**values, "runs": figures["runs"]})
        text = json.dumps(result, indent=1) + "\n"
        (given.out / f"{given.name}.json").write_text(text, encoding="utf-8")
        (given.out / f"{given.name}.md").write_text(table(result), encoding="utf-8")


def settings(text: str) -> list[Setting]:
    """``4x4:32:1,2x8:64:1``: workers x threads, batch size, delay in ms."""
    found = []
    for part in text.split(","):
        numbers = [int(n) for n in part.replace("x", ":").split(":")]
        workers, threads, batch, delay = numbers
        found.append((workers, threads, batch, delay))
    return found


def choices(count: int) -> list[Setting]:
    """What is tried on a CPU of so many cores."""
    return [
        (count, 1, 1, 5),
        (count, 1, 4, 5),
        (1, count, 1, 5),
        (1, count, 4, 5),
        (1, count, 8, 20),
        (count + 1, 1, 1, 5),
        (2 * count, 1, 1, 5),
    ]


def table(result: dict[str, Any]) -> str:
    """The settings side by side, in Markdown."""
    machine = result["machine"]
    columns = [run["concurrency"] for run in result["settings"][0]["runs"]]
    heads = " | ".join(f"req/s at {c} | p50 ms" for c in columns)
    lines = [
        "# Workers, threads, batch size and delay",
        "",
        f"`{result['command']}`, {machine['cpu']}, {machine['cores']} cores"
        + "".join(f", {gpu}" for gpu in machine["gpu"]),
        "",
        f"| workers x threads | batch, delay ms | {heads} |",
        "|---" * (2 + 2 * len(columns)) + "|",
    ]
    for row in result["settings"]:
        cells = " | ".join(
            f"{r['throughput']:,.1f} | {r['latency_ms']['p50'] or 0:.1f}" for r in row["runs"]
        )
        lines.append(
            f"| {row['workers']} x {row['threads']} "
            f"| {row['batch_size']}, {row['max_batch_delay']} | {cells} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
