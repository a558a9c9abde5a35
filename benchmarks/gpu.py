"""Measures the kit on an NVIDIA GPU: the module alone, then served, beside the stock designs.

    python benchmarks/gpu.py --archives DIR [--kit s-onnx] [--seconds 6] [--out benchmarks/results]

``--archives`` holds what the kit's own command made: ``NAME.mar`` of one model, by several ways
and precisions. Every archive's accelerated form is timed at each of its batch sizes by graph
replays, and scored on held-out scenes beside its checkpoint, where that is the shipped one or
``--weights`` (without it: ``benchmarks.grown``). Then three servers, one after the other, are asked
for 1280x720 JPEGs:

- (a) the stock design: 4 workers, batch 1, OpenCV in Python, torch2trt's own module in fp16;
- (b) the same with the TorchScript file that TorchServe's examples lead to;
- (c) the kit, in its local loop (mode 2) and served (mode 3).

Writes ``gpu.json`` (every figure) and ``gpu.md`` (the tables).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks import grown, stock, work  # noqa: E402
from benchmarks.bench import serving  # noqa: E402
from examples.shapes import evaluate  # noqa: E402
from handlers.passport import Passport, sha256  # noqa: E402
from handlers.runtimes import load  # noqa: E402
from handlers.runtimes.device import DeviceRuntime  # noqa: E402
from repack import archive  # noqa: E402

STOCK_PORT, PLAIN_PORT, KIT_PORT = 18580, 18680, 18480
CONCURRENCY = "1,4,16,64,256"
WARM_S = 5.0
"""Seconds that a server is asked for before it is measured."""
PARTS = ("modules", "accuracy", "kit", "local", "torch2trt", "torchscript")


def main() -> None:
    """Times the modules, then the servers; writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archives", type=Path, required=True)
    parser.add_argument("--kit", default="s-onnx", help="the archive that (c) serves")
    parser.add_argument("--torch2trt", default="s-t2t", help="the archive whose engine (a) serves")
    parser.add_argument("--weights", type=Path, help="the checkpoint that (b) serves")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of: " + ", ".join(PARTS))
    parser.add_argument("--pictures", type=Path, help="1280x720 JPEGs, if they are there already")
    parser.add_argument("--seconds", type=float, default=6, help="per concurrency")
    parser.add_argument("--concurrency", default=CONCURRENCY)
    parser.add_argument("--clients", default="4", help="processes that make the load")
    parser.add_argument("--workers", default="12")
    parser.add_argument("--batch-size", default="16")
    parser.add_argument("--delay", default="1")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped
    result: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "modules": [],
        "accuracy": [],
        "runs": [],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gb-") as tmp:
        folder = Path(tmp)
        pictures = given.pictures or work.pictures_of(folder / "pictures", 64, 31, work.BYTES)
        given.weights = given.weights or grown.yolov5s(folder / "s.pt")
        for path in sorted(given.archives.glob("*.mar")):
            if "modules" in given.parts:
                result["modules"] += modules(path, folder / path.stem)
            if "accuracy" in given.parts:
                result["accuracy"] += accuracy(path, given.weights, folder / f"{path.stem}-a")
            save(result, given.out)
        sides(result, given, folder, pictures)
    save(result, given.out)
    print(table(result))


def modules(path: Path, folder: Path) -> list[dict[str, Any]]:
    """Milliseconds of one call at each batch size that an archive was built for."""
    passport: Passport = archive.unpack(path, folder)
    loaded = load(folder, passport, "accelerated", 2)
    runtime = loaded.runtime
    if not isinstance(runtime, DeviceRuntime) or not runtime.batches:
        return []
    rows = []
    for batch in runtime.batches:
        ms = min(runtime.time(batch, 100) for _ in range(3))
        rows.append(
            {
                "archive": path.stem,
                "runtime": runtime.name,
                "via": getattr(loaded.artefact.options, "via", None),
                "precision": runtime.precision,
                "batch": batch,
                "ms": round(ms, 4),
                "per_second": round(batch / ms * 1e3),
                "versions": passport.versions,
            }
        )
    return rows


def accuracy(path: Path, weights: Path, folder: Path) -> list[dict[str, Any]]:
    """mAP of an archive's checkpoint and of its accelerated form, where the checkpoint is here."""
    source = archive.verify(path).source["sha256"]
    for checkpoint in (weights, evaluate.WEIGHTS):
        if sha256(checkpoint) == source:
            return [{"archive": path.stem, **work.accuracy(path, checkpoint, folder)}]
    return []


def sides(result: dict[str, Any], given: argparse.Namespace, folder: Path, pictures: Path) -> None:
    """The three servers, each alone on the machine while it is measured."""

    def measured(side: str, mode: str, name: str, port: int) -> None:
        if mode == "3":  # Java compiles what runs often
            tester(given, folder, pictures, mode, name, port, concurrency="64", seconds=WARM_S)
        figures = tester(given, folder, pictures, mode, name, port)
        result["machine"], result["versions"] = figures["machine"], figures["versions"]
        result["runs"] += [{"side": side, **run} for run in figures["runs"]]
        save(result, given.out)

    values = {"workers": given.workers, "threads": "2", "batch_size": given.batch_size}
    values |= {"max_batch_delay": given.delay, "queue": "4000"}
    if "kit" in given.parts:
        with serving(given.archives, folder, given.kit, KIT_PORT, values):
            measured("(c) kit", "3", given.kit, KIT_PORT)
    if "local" in given.parts:
        measured("(c) kit", "2", given.kit, KIT_PORT)
    if "torch2trt" in given.parts:
        with stock_engine(given, folder):
            measured("(a) stock, torch2trt", "3", "stock", STOCK_PORT)
    if "torchscript" in given.parts:
        with stock_module(given, folder):
            measured("(b) stock, TorchScript", "3", "stock", PLAIN_PORT)


@contextmanager
def stock_engine(given: argparse.Namespace, folder: Path) -> Iterator[None]:
    """(a), serving the engine of the torch2trt archive."""
    store = folder / "stock-trt"
    store.mkdir()
    handler = Path(__file__).with_name("stock_trt_handler.py")
    plan, about = engine(given.archives / f"{given.torch2trt}.mar", folder / "engine")
    stock.pack(plan, store, handler, [about])
    with stock.serve(store, folder / "st", STOCK_PORT, workers=4):
        yield


@contextmanager
def stock_module(given: argparse.Namespace, folder: Path) -> Iterator[None]:
    """(b), serving the checkpoint as a TorchScript file."""
    store = folder / "stock-ts"
    store.mkdir()
    work.torchscript_for_gpu(given.weights, folder / "model.pt")
    stock.pack(folder / "model.pt", store)
    with stock.serve(store, folder / "sp", PLAIN_PORT, workers=4):
        yield


def engine(path: Path, folder: Path) -> tuple[Path, Path]:
    """An archive's engine for batch 1, and a JSON file of what its handler must know."""
    passport = archive.unpack(path, folder)
    accelerated, head = passport.artefacts["accelerated"], passport.settings["head"]
    about = folder / "engine.json"
    kept = {k: head[k] for k in ("strides", "anchors")}
    kept["outputs"] = accelerated.options.outputs
    about.write_text(json.dumps(kept), encoding="utf-8")
    return folder / accelerated.files[0], about


def tester(
    given: argparse.Namespace,
    folder: Path,
    pictures: Path,
    mode: str,
    name: str,
    port: int,
    concurrency: str | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """One run of ``python qpstest``; returns what it wrote."""
    target = folder / "figures.json"
    command = [sys.executable, "qpstest", "--mode", mode, "--name", name, "--input", str(pictures)]
    command += ["--concurrency", concurrency or given.concurrency]
    command += ["--duration", str(seconds or given.seconds), "--clients", given.clients]
    command += ["--model-store", str(given.archives), "--json", str(target)]
    if mode == "2":
        command += ["--processes", given.workers, "--threads", "2", "--batch", given.batch_size]
    environment = os.environ | {"PORT": str(port), "HOST": "127.0.0.1"}
    subprocess.run(command, cwd=ROOT, check=True, env=environment)
    figures: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return figures


def save(result: Mapping[str, Any], out: Path) -> None:
    """Writes what there is so far: a run on a borrowed machine may end early."""
    (out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text(table(result), encoding="utf-8")


def table(result: Mapping[str, Any]) -> str:
    """Both tables as Markdown."""
    lines = ["# On a GPU", "", f"`{result['command']}`, {result['date']}", ""]
    machine = result.get("machine", {})
    lines += [f"- {k}: {v}" for k, v in machine.items()]
    lines += ["", "## The module alone: one call, by graph replay", ""]
    lines += [
        "| archive | runtime | precision | batch | ms | pictures/s |",
        "|---|---|---|--:|--:|--:|",
    ]
    for m in result["modules"]:
        via = f" via {m['via']}" if m["via"] else ""
        lines.append(
            f"| {m['archive']} | {m['runtime']}{via} | {m['precision']} | {m['batch']} "
            f"| {m['ms']:.3f} | {m['per_second']:,} |"
        )
    lines += ["", f"## mAP50-95 on {work.SCENES} held-out scenes", ""]
    lines += ["| archive | form | checkpoint | archive's | points lost |", "|---|---|--:|--:|--:|"]
    for a in result["accuracy"]:
        before, after = a["original"]["map50_95"], a["converted"]["map50_95"]
        lines.append(
            f"| {a['archive']} | {a['form']} | {before:.4f} | {after:.4f} "
            f"| {(before - after) * 100:+.2f} |"
        )
    lines += ["", "## Served: 1280x720 JPEGs of about 170 KB", ""]
    lines += ["| side | mode | concurrency | req/s | p50 ms | p99 ms | errors | RSS MB |"]
    lines += ["|---|--:|--:|--:|--:|--:|--:|--:|"]
    for run in result["runs"]:
        latency = {k: v or 0 for k, v in run["latency_ms"].items()}
        errors = sum(run["errors"].values())
        lines.append(
            f"| {run['side']} | {run['mode']} | {run['concurrency']} | {run['throughput']:,.0f} "
            f"| {latency['p50']:.2f} | {latency['p99']:.2f} | {errors} "
            f"| {max(run.get('worker_rss_mb') or [0]):,.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
