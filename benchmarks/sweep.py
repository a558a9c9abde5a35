"""Measures what run.sh's defaults should be: workers, threads, batch size and batch delay.

    python benchmarks/sweep.py [--archive model_store/fd1.mar]

Each setting is served in turn and asked by the tester at concurrency 1, 4 and 16; writes
``settings.json`` and ``settings.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.bench import CONCURRENCY, serving, tester  # noqa: E402
from deploy.settings import cores  # noqa: E402


def main() -> None:
    """Serves the archive with each setting and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, default=ROOT / "model_store" / "fd1.mar")
    parser.add_argument("--seconds", type=float, default=8, help="per setting and concurrency")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    rows = []
    for i, (workers, threads, batch, delay) in enumerate(choices(cores())):
        with tempfile.TemporaryDirectory(prefix="ks-") as tmp:
            store = Path(tmp) / "store"
            store.mkdir()
            shutil.copy(given.archive, store)
            values = {
                "workers": str(workers),
                "threads": str(threads),
                "batch_size": str(batch),
                "max_batch_delay": str(delay),
            }
            name, port = given.archive.stem, 18600 + 10 * i
            with serving(store, Path(tmp), name, port, values):
                pictures = ROOT / "examples" / "pictures"
                figures = tester(Path(tmp), pictures, given.seconds, "3", name, port)
        rows.append({**values, "runs": figures["runs"]})
    result = {
        "command": " ".join(["python", "benchmarks/sweep.py", *sys.argv[1:]]),
        "machine": figures["machine"],
        "versions": figures["versions"],
        "settings": rows,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "settings.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (given.out / "settings.md").write_text(table(result), encoding="utf-8")
    print(table(result))


def choices(count: int) -> list[tuple[int, int, int, int]]:
    """Workers, threads each, batch size, batch delay in ms."""
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
    heads = " | ".join(f"req/s at {c} | p50 ms" for c in CONCURRENCY)
    lines = [
        "# Workers, threads, batch size and delay",
        "",
        f"`{result['command']}`, {machine['cpu']}, {machine['cores']} cores",
        "",
        f"| workers x threads | batch, delay ms | {heads} |",
        "|---" * (2 + 2 * len(CONCURRENCY)) + "|",
    ]
    for row in result["settings"]:
        cells = " | ".join(
            f"{r['throughput']:.1f} | {r['latency_ms']['p50']:.1f}" for r in row["runs"]
        )
        lines.append(
            f"| {row['workers']} x {row['threads']} "
            f"| {row['batch_size']}, {row['max_batch_delay']} | {cells} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
