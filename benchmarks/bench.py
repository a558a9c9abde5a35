"""Measures the kit against the stock TorchServe design, side by side in one run.

    python benchmarks/bench.py [--rounds 3] [--out benchmarks/results]

YOLOv5s at 640x640, 1280x720 JPEGs of about 170 KB, everything on this machine's cores: the archive
that ``auto`` chooses (int8 calibrated on other pictures), served and in its local loop, against one
TorchScript worker per core, batch 1, untuned (and once more with one thread a worker). Then mAP of
the shipped model before and after the same conversion. Writes
``cpu.json`` (every figure) and ``cpu.md`` (the table).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks import stock, work  # noqa: E402
from deploy.torchserve import server as servers  # noqa: E402
from deploy.torchserve import state  # noqa: E402
from deploy.torchserve.archives import survey  # noqa: E402
from deploy.torchserve.settings import make  # noqa: E402

KIT_PORT, STOCK_PORT, TAME_PORT = 18480, 18580, 18680
CONCURRENCY = (1, 4, 16)


def main() -> None:
    """Prepares both sides, measures them in turns, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of both sides (median kept)")
    parser.add_argument("--seconds", type=float, default=12, help="per concurrency and turn")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kb-") as tmp:
        folder = Path(tmp)
        pictures = work.pictures(folder / "pictures", 16, seed=31)
        calibration = work.pictures(folder / "calibration", 64, seed=32)
        weights = work.untrained_yolov5s(folder / "yolov5s.pt")
        chosen = repack(weights, pictures, calibration, folder / "store", "kit")
        work.stock_torchscript(weights, folder / "model.pt")
        (folder / "stock").mkdir()
        stock.pack(folder / "model.pt", folder / "stock")
        shipped = ROOT / "examples" / "shapes" / "yolov5n_shapes.pt"
        scenes = work.scenes(folder / "scenes", 64, seed=33)
        repack(shipped, ROOT / "examples" / "pictures", scenes, folder / "shapes", "shapes")
        accuracy = work.accuracy(folder / "shapes" / "shapes.mar", shipped, folder / "unpacked")
        rounds = measure(folder, pictures, given.rounds, given.seconds)
    result = {
        "command": " ".join(["python", "benchmarks/bench.py", *sys.argv[1:]]),
        "machine": rounds[0]["kit"]["machine"],
        "versions": rounds[0]["kit"]["versions"],
        "candidates": chosen["candidates"],
        "chosen": chosen["chosen"],
        "accuracy_of_the_shipped_model": accuracy,
        "runs": middle(rounds),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "cpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (given.out / "cpu.md").write_text(work.table(result), encoding="utf-8")
    print(work.table(result))


def repack(weights: Path, samples: Path, calibration: Path, store: Path, name: str) -> Any:
    """Runs the kit's own command; returns its report."""
    command = [sys.executable, "repack/model_repack.py", "--weights", str(weights), "--name", name]
    command += ["--backend", "auto", "--samples", str(samples), "--calibration", str(calibration)]
    subprocess.run([*command, "--model-store", str(store)], cwd=ROOT, check=True)
    return json.loads((store / f"{name}.report.json").read_text(encoding="utf-8"))


def measure(folder: Path, pictures: Path, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """All servers up at once, measured in turns; those that wait use no core."""
    with (
        serving(folder / "store", folder, "kit", KIT_PORT, {}),
        stock.serve(folder / "stock", folder / "s", STOCK_PORT),
        stock.serve(folder / "stock", folder / "s1", TAME_PORT, threads=1),
    ):
        return [
            {
                "kit": tester(folder, pictures, seconds, "all", "kit", KIT_PORT),
                "stock": tester(folder, pictures, seconds, "3", "stock", STOCK_PORT),
                "stock, 1 thread": tester(folder, pictures, seconds, "3", "stock", TAME_PORT),
            }
            for _ in range(rounds)
        ]


@contextmanager
def serving(
    store: Path, folder: Path, name: str, port: int, values: Mapping[str, str]
) -> Iterator[None]:
    """Serves a store as run.sh does, on ports of its own."""
    places = {"model_store": str(store), "run_dir": str(folder / "run")}
    ports = {"port": str(port), "grpc_port": str(port + 3)}
    settings = make({"name": name, **places, **ports, **values})
    state.prepare(settings.run_dir)
    archives, _ = survey(settings.model_store)
    server = servers.start(settings, archives)
    try:
        server.wait_ready(name)
        yield
    finally:
        servers.stop(server)


def tester(
    folder: Path,
    pictures: Path,
    seconds: float,
    mode: str,
    name: str,
    port: int,
    concurrency: str = ",".join(map(str, CONCURRENCY)),
    clients: str = "1",
) -> dict[str, Any]:
    """One run of ``python qpstest``; returns what it wrote."""
    target = folder / "figures.json"
    command = [sys.executable, "qpstest", "--mode", mode, "--name", name, "--input", str(pictures)]
    command += ["--concurrency", concurrency, "--duration", str(seconds), "--clients", clients]
    command += ["--model-store", str(folder / "store"), "--json", str(target)]
    environment = os.environ | {"PORT": str(port), "HOST": "127.0.0.1"}
    subprocess.run(command, cwd=ROOT, check=True, env=environment)
    figures: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return figures


def middle(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per side, mode and concurrency the round with the median throughput, and all throughputs."""
    runs = []
    for side in rounds[0]:
        for i, first in enumerate(rounds[0][side]["runs"]):
            same = [r[side]["runs"][i] for r in rounds]
            speeds = [run["throughput"] for run in same]
            kept = min(same, key=lambda run: abs(run["throughput"] - median(speeds)))
            runs.append({"side": side, **kept, "throughputs": speeds, "mode": first["mode"]})
    return runs


if __name__ == "__main__":
    main()
