"""Measures a whole volume through the shipped 3-D U-Net: accelerated against served TorchScript.

    python benchmarks/volumes.py [--requests 3] [--rounds 1] [--out benchmarks/results]

A synthetic scan of 256x256x128 voxels on the model's own spacing, NIfTI in and NIfTI mask out, both
archives behind one server with one worker each and all of this machine's cores. Writes
``volumes.json`` (every figure) and ``volumes.md`` (the table), or what ``--page`` names them. With
ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI set, PyTorch's and OpenVINO's kernels keep to what an older
processor has: int8, no bf16, no AMX.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks import bench, volumes_table  # noqa: E402
from deploy.torchserve.settings import cores  # noqa: E402
from examples.vessels import evaluate, make_samples, plain  # noqa: E402
from examples.vessels.cases import LABELS, Shape, case  # noqa: E402
from qpstest import server_metrics  # noqa: E402
from repack.sources.source import sha256_of  # noqa: E402
from repack.tasks.segmentation import load_test as masks  # noqa: E402

PORT = 18780
SHAPE = (128, 256, 256)
SIDES = ("vessels", "vessels-torchscript")
"""The archives: what was chosen, and the portable module."""
HERE = "http://127.0.0.1"
CEILING = "ONEDNN_MAX_CPU_ISA"


@dataclass(frozen=True)
class Memory:
    """One worker's resident memory in MB of 10^6 bytes.

    Attributes:
        loaded: once it is READY.
        one_window: its peak after a volume of one window: the model with what it computes in.
        peak: its peak after the whole volume.
    """

    loaded: float
    one_window: float
    peak: float


def main() -> None:
    """Packs both archives, serves them, measures them in turn, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="auto", help="of the accelerated archive")
    parser.add_argument("--precision", default="auto", help="likewise; calibrated")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE, metavar=("Z", "Y", "X"))
    parser.add_argument("--requests", type=int, default=3, help="counted volumes per side and turn")
    parser.add_argument("--rounds", type=int, default=1, help="turns of both sides (median kept)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--store", type=Path, help="keeps the archives; those there are not remade")
    parser.add_argument("--page", default="volumes", help="name of the two files")
    given = parser.parse_args()
    depth, height, width = given.shape
    shape = depth, height, width
    with tempfile.TemporaryDirectory(prefix="kb-") as tmp:
        folder = Path(tmp)
        store = (given.store or folder / "store").resolve()
        chosen = pack(folder, store, given.backend, given.precision)
        pack(folder, store, "torchscript", "f32", SIDES[1])
        scans = make_samples.write(folder / "scans", 1, shape=shape)
        window = make_samples.write(folder / "window", 1)
        served = measure(folder, store, scans, window, given.requests, given.rounds)
        figures = served["runs"][0]
        result = {
            "command": command_of(given),
            "weights_sha256": sha256_of(evaluate.WEIGHTS),
            "machine": served["machine"],
            "versions": served["versions"],
            "shape_zyx": shape,
            "volume_float32_mb": round(4 * depth * height * width / 1e6, 1),
            "candidates": chosen["candidates"],
            "chosen": chosen["chosen"],
            "runs": served["runs"],
            "memory_mb": served["memory"],
            "dice": agreement(served["masks"], shape),
            "date": figures["date"],
        }
    given.out.mkdir(parents=True, exist_ok=True)
    text = volumes_table.table(result, SIDES)
    (given.out / f"{given.page}.json").write_text(
        json.dumps(result, indent=1) + "\n", encoding="utf-8"
    )
    (given.out / f"{given.page}.md").write_text(text, encoding="utf-8")
    print(text)


def command_of(given: argparse.Namespace) -> str:
    """The command for the report, without the folders that only this machine has."""
    flags = {name: getattr(given, name) for name in ("backend", "precision", "requests", "rounds")}
    shown = [f"--{name} {value}" for name, value in flags.items()]
    shape = " ".join(map(str, given.shape))
    ceiling = [f"{CEILING}={os.environ[CEILING]}"] if os.environ.get(CEILING) else []
    return " ".join([*ceiling, "python benchmarks/volumes.py", *shown, f"--shape {shape}"])


def pack(folder: Path, store: Path, backend: str, precision: str, name: str = SIDES[0]) -> Any:
    """Runs the kit's own command on the shipped model, where the archive is not there yet; returns
    its report."""
    samples = make_samples.write(folder / "samples", 2)
    command = [sys.executable, "repack/model_repack.py", "--weights", str(evaluate.WEIGHTS)]
    command += ["--network", "examples.vessels.network:Net", "--name", name]
    command += ["--volumes", str(evaluate.HERE / "volumes.yaml"), "--samples", str(samples)]
    command += ["--backend", backend, "--precision", precision]
    if precision in ("auto", "int8"):
        seed = make_samples.CALIBRATION_SEED
        calibration = make_samples.write(folder / "calibration", 8, seed)
        command += ["--calibration", str(calibration)]
    if not (store / f"{name}.mar").is_file():
        subprocess.run([*command, "--model-store", str(store)], cwd=ROOT, check=True)
    return json.loads((store / f"{name}.report.json").read_text(encoding="utf-8"))


def measure(
    folder: Path, store: Path, scans: Path, window: Path, requests: int, rounds: int
) -> dict[str, Any]:
    """Both archives behind one server, each measured with qpstest while the other one waits."""
    values = {"workers": "1", "threads": str(cores())}
    values |= {"max_request_mb": "512", "response_timeout": "900", "startup_timeout": "300"}
    with bench.serving(store, folder, SIDES[0], PORT, values):
        (scan,) = scans.iterdir()
        (small,) = window.iterdir()
        memory, found, runs = {}, {}, []
        loaded = {side: resident(side, "VmRSS") for side in SIDES}
        for side in SIDES:
            ask(side, small)
            one_window = resident(side, "VmHWM")
            found[side] = ask(side, scan)
            memory[side] = vars(Memory(loaded[side], one_window, resident(side, "VmHWM")))
        told = []
        for _ in range(rounds):
            told.append({side: tester(folder, scan, side, requests) for side in SIDES})
        for side in SIDES:
            same = [turn[side]["runs"][0] for turn in told]
            same.sort(key=lambda run: float(run["latency_ms"]["p50"]))
            runs.append({"side": side, **same[(len(same) - 1) // 2]})
    first = told[0][SIDES[0]]
    kept = {"machine": first["machine"], "versions": first["versions"]}
    return {**kept, "runs": runs, "memory": memory, "masks": found}


def tester(folder: Path, scan: Path, name: str, requests: int) -> dict[str, Any]:
    """One run of ``python qpstest`` at concurrency 1; returns what it wrote."""
    target = folder / "figures.json"
    command = [sys.executable, "qpstest", "--mode", "3", "--name", name, "--input", str(scan)]
    command += ["--concurrency", "1", "--requests", str(requests), "--warmup", "0"]
    command += ["--url", f"{HERE}:{PORT}"]
    subprocess.run([*command, "--json", str(target)], cwd=ROOT, check=True)
    figures: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return figures


def ask(name: str, scan: Path) -> NDArray[np.uint8]:
    """The mask ``[z, y, x]`` that the server answers."""
    headers = {"Accept": masks.GZIP, "Content-Type": "application/octet-stream"}
    url = f"{HERE}:{PORT}/predictions/{name}"
    request = urllib.request.Request(url, scan.read_bytes(), headers)
    with urllib.request.urlopen(request, timeout=900) as answer:
        return np.asarray(masks.volume(answer.read()).data[0], np.uint8)


def resident(name: str, field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of the model's worker, MB of 10^6 bytes."""
    status = server_metrics.model_status(f"{HERE}:{PORT + 1}", name, None)
    text = Path(f"/proc/{status.workers[0].pid}/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in text.splitlines())
    return round(int(fields[field].split()[0]) * 1024 / 1e6, 1)


def agreement(found: Mapping[str, NDArray[np.uint8]], shape: Shape) -> dict[str, Any]:
    """Dice per label of each side against the checkpoint in plain PyTorch, and of it and the
    accelerated archive against the truth."""
    made = case(make_samples.SAMPLES_SEED, 0, shape)
    original = plain.segment(evaluate.load(), made.scan)

    def each(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> dict[str, float]:
        return {n: round(plain.dice(a, b, i), 5) for i, n in enumerate(LABELS) if i}

    return {
        "against_the_original": {side: each(mask, original) for side, mask in found.items()},
        "against_the_truth": {
            "original": each(original, made.labels),
            SIDES[0]: each(found[SIDES[0]], made.labels),
        },
    }


if __name__ == "__main__":
    main()
