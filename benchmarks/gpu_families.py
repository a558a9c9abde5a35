"""Measures a YOLOv8s beside a YOLOv5s of like cost on an NVIDIA GPU, in f16 and in int8.

    python benchmarks/gpu_families.py --v8 v8s.pt --samples DIR --calibration DIR --out DIR

Four archives are made by the kit's own command, side by side, each in a folder of its own in
``--store`` with its log: what is there already is not built again, and one that fails or runs out
of time leaves the others as they are. One that the gate refuses on ``--samples`` is packed without
them, from the same engine, so that its speed is known; the table says so. Then each is timed alone
by graph replays, and served through the process that all workers share, in turns, YOLOv5s beside
YOLOv8s. Without ``--v5``, the YOLOv5s is the one of ``benchmarks.grown``.

Writes ``gpu_families.json`` (every figure), ``gpu_families.md`` (the tables) and the logs, again
after each step: a run on a borrowed machine may end early.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks import gpu, grown, work  # noqa: E402
from benchmarks.bench import serving  # noqa: E402
from repack import pipeline  # noqa: E402
from repack.options import DetectorOptions, Options, SourceOptions  # noqa: E402

PORT = 18480
PRECISIONS = ("f16", "int8")
REFUSED = 3
"""Exit status of a repack whose gate refused what was built."""

THREADS = "4"
"""Of each build, which all run at once."""


@dataclass(frozen=True)
class Entry:
    """One archive.

    Attributes:
        side: of the square input, pixels.
    """

    family: str
    weights: Path
    side: int
    precision: str

    @property
    def name(self) -> str:
        return f"{self.family}-{self.precision}"


def main() -> None:
    """Builds, times and serves; writes the figures after each step."""
    given = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped
    given.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/gpu_families.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "cost": {},
        "builds": {},
        "modules": [],
        "runs": [],
    }
    with tempfile.TemporaryDirectory(prefix="gf-") as tmp:
        folder = Path(tmp)
        v5 = given.v5 or grown.yolov5s(folder / "v5s.pt")
        families = {"v5s": (v5, given.v5_side), "v8s": (given.v8, given.v8_side)}
        entries = [Entry(n, *told, p) for p in PRECISIONS for n, told in families.items()]
        build_all(entries, given, result)
        for name, (weights, side) in families.items():
            result["cost"][name] = {"side": side, "multiply_adds": multiply_adds(weights, side)}
        pictures = given.pictures or work.pictures_of(folder / "pictures", 64, 31, work.BYTES)
        built = [e for e in entries if (given.store / e.name / f"{e.name}.mar").is_file()]
        for entry in built:
            path = given.store / entry.name / f"{entry.name}.mar"
            result["modules"] += gpu.modules(path, folder / entry.name)
            save(result, given.out)
        for turn in range(given.rounds):
            for entry in built:
                serve(entry, turn, given, folder, pictures, result)
    print(table(result))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--v8", type=Path, required=True, help="a YOLOv8s checkpoint")
    add("--v5", type=Path, help="a YOLOv5s checkpoint (default: that of benchmarks.grown)")
    add("--v8-side", type=int, default=480, help="input of the YOLOv8s, pixels")
    add("--v5-side", type=int, default=640, help="input of the YOLOv5s, pixels")
    add("--samples", type=Path, required=True, help="pictures for the gate, with label files")
    add("--calibration", type=Path, required=True, help="pictures for int8")
    add("--pictures", type=Path, help="1280x720 JPEGs, if they are there already")
    add("--store", type=Path, default=ROOT / ".gpu" / "families", help="archives, kept")
    add("--engine-cache", type=Path, help="engines built before (default: in --store)")
    add("--level", default="0", help="TensorRT's builder optimization level")
    add("--build-seconds", type=float, default=330, help="for all builds, which run at once")
    add("--rounds", type=int, default=1, help="turns of all servers")
    add("--seconds", type=float, default=6, help="per concurrency")
    add("--concurrency", default="64,256")
    add("--clients", default="4", help="processes that make the load")
    add("--workers", default="12")
    add("--batch-size", default="16", help="of the engines and of the server")
    add("--delay", default="1")
    add("--out", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def build_all(entries: list[Entry], given: argparse.Namespace, result: dict[str, Any]) -> None:
    """Makes what is not there yet, all at once; one that fails leaves the others as they are."""
    end = time.monotonic() + given.build_seconds
    with ThreadPoolExecutor(len(entries)) as pool:
        told = zip(entries, pool.map(lambda entry: build(entry, given, end), entries), strict=True)
        for entry, about in told:
            result["builds"][entry.name] = about
            save(result, given.out)


def build(entry: Entry, given: argparse.Namespace, end: float) -> dict[str, Any]:
    """One archive; what became of it."""
    folder = given.store / entry.name
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    verdict, seconds = "built before", 0.0
    if not (folder / f"{entry.name}.mar").is_file():
        code, verdict = repack(entry, given, end, ["--samples", str(given.samples)])
        if code == REFUSED:  # from the engine that is there now
            _, second = repack(entry, given, end, [])
            verdict = f"on the samples: {verdict}; on random inputs: {second}"
        seconds = round(time.monotonic() - begin, 1)
    about: dict[str, Any] = {"verdict": verdict, "seconds": seconds}
    report = folder / f"{entry.name}.report.json"
    if report.is_file():
        about["candidates"] = json.loads(report.read_text(encoding="utf-8"))["candidates"]
    for file in (*folder.glob("*.log"), *folder.glob("*.report.json")):
        shutil.copy(file, given.out)
    print(f"{entry.name}: {verdict}, {seconds} s", flush=True)
    return about


def repack(
    entry: Entry, given: argparse.Namespace, end: float, samples: list[str]
) -> tuple[int, str]:
    """Runs the kit's own command; its exit status, and why it made nothing or "passed"."""
    folder = given.store / entry.name
    command = [sys.executable, "repack/model_repack.py", "--weights", str(entry.weights)]
    command += ["--name", entry.name, "--model-store", str(folder), "--imgsz", str(entry.side)]
    command += ["--trt", "1", "--via", "onnx", "--precision", entry.precision, *samples]
    command += ["--calibration", str(given.calibration)] if entry.precision == "int8" else []
    command += ["--batch", given.batch_size, "--level", given.level]
    command += ["--engine-cache", str(given.engine_cache or given.store / "engines")]
    path = folder / f"{entry.name}{'' if samples else '-random'}.log"
    environment = os.environ | {"OMP_NUM_THREADS": THREADS}
    with path.open("w", encoding="utf-8") as log:
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            code = child.wait(max(1.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.terminate()
            child.wait()
            return child.returncode, "ended, because the time for builds was over"
    lines = path.read_text(encoding="utf-8").strip().splitlines()
    return code, "passed" if code == 0 else f"exit status {code}: {(lines or [''])[-1]}"


def multiply_adds(weights: Path, side: int) -> int:
    """Of the network on one picture."""
    given = Options(SourceOptions(weights), detector=DetectorOptions(imgsz=side))
    module = pipeline.load(given).module
    assert module is not None
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.zeros(1, side, side, 3, dtype=torch.uint8))
    return int(counter.get_total_flops()) // 2


def serve(
    entry: Entry,
    turn: int,
    given: argparse.Namespace,
    folder: Path,
    pictures: Path,
    result: dict[str, Any],
) -> None:
    """One turn of one server, alone on the machine."""
    asked = argparse.Namespace(**{**vars(given), "archives": given.store / entry.name})
    values = {"workers": given.workers, "threads": "2", "batch_size": given.batch_size}
    values |= {"max_batch_delay": given.delay, "queue": "4000"}
    place = folder / f"{entry.name}-{turn}"
    place.mkdir(parents=True, exist_ok=True)
    with serving(asked.archives, place, entry.name, PORT, values):
        gpu.tester(asked, place, pictures, "3", entry.name, PORT, "64", gpu.WARM_S)
        figures = gpu.tester(asked, place, pictures, "3", entry.name, PORT)
    result["machine"], result["versions"] = figures["machine"], figures["versions"]
    result["runs"] += [{"archive": entry.name, "turn": turn, **run} for run in figures["runs"]]
    save(result, given.out)


def save(result: Mapping[str, Any], out: Path) -> None:
    (out / "gpu_families.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "gpu_families.md").write_text(table(result), encoding="utf-8")


def table(result: Mapping[str, Any]) -> str:
    """The figures as Markdown, with the ratios."""
    lines = ["# YOLOv8s beside YOLOv5s on a GPU", "", f"`{result['command']}`, {result['date']}"]
    lines += ["", *(f"- {k}: {v}" for k, v in result.get("machine", {}).items())]
    lines += [
        f"- {name}: {told['side']}x{told['side']} pixels, {told['multiply_adds'] / 1e9:.2f} "
        "thousand million multiply-adds a picture"
        for name, told in result["cost"].items()
    ]
    lines += ["", "| archive | seconds | the gate |", "|---|--:|---|"]
    lines += [f"| {n} | {b['seconds']} | {b['verdict']} |" for n, b in result["builds"].items()]
    lines += ["", "The module alone, by graph replay:", ""]
    lines += ["| archive | precision | batch | ms | pictures/s |", "|---|---|--:|--:|--:|"]
    lines += [
        f"| {m['archive']} | {m['precision']} | {m['batch']} | {m['ms']:.3f} "
        f"| {m['per_second']:,} |"
        for m in result["modules"]
    ]
    lines += ["", "Served through the shared process, 1280x720 JPEGs:", ""]
    lines += ["| archive | at once | answers/s | p50 ms | p99 ms | errors |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for run in result["runs"]:
        latency = {k: v or 0 for k, v in run["latency_ms"].items()}
        lines.append(
            f"| {run['archive']} | {run['concurrency']} | {run['throughput']:,.0f} "
            f"| {latency['p50']:.1f} | {latency['p99']:.1f} | {sum(run['errors'].values())} |"
        )
    return "\n".join([*lines, "", *ratios(result)]) + "\n"


def ratios(result: Mapping[str, Any]) -> list[str]:
    """YOLOv8s over YOLOv5s, each at its best."""
    found = []
    for precision in PRECISIONS:
        for kind, rows, figure in (
            ("alone", result["modules"], "per_second"),
            ("served", result["runs"], "throughput"),
        ):
            best = [
                max((r[figure] for r in rows if r["archive"] == f"{f}-{precision}"), default=0)
                for f in ("v8s", "v5s")
            ]
            if all(best):
                found.append(f"- {kind}, {precision}: YOLOv8s over YOLOv5s {best[0] / best[1]:.2f}")
    return found


if __name__ == "__main__":
    main()
