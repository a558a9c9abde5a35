"""Measures a whole CT volume through a 3-D U-Net of nnU-Net's size, on an NVIDIA GPU.

    python benchmarks/unet3d.py FOLDER
    python repack/model_repack.py --weights FOLDER/net.pt --network benchmarks.unet3d:Net \\
        --volumes FOLDER/volumes.yaml --backend tensorrt --via onnx --precision f16 --batch 1 \\
        --name big --model-store STORE
    python benchmarks/volumes_gpu.py --archives STORE --volume FOLDER/scan.nii.gz --out DIR

Every archive of ``STORE`` is timed alone (one window, graph replays) and end to end: the bytes of
the ``.nii.gz`` to those of the mask, through the handler in this process. The plain way is the
same handler with ``net.pt`` beside the scan in PyTorch's eager mode, f32 as PyTorch comes (its
convolutions may use TF32), so that the factor is the network's own. Writes ``volumes_gpu.json`` and
``volumes_gpu.md``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from benchmarks.unet3d import LABELS, PATCH, SHAPE, Net  # noqa: E402
from handlers.artefact import Artefact, TorchScriptCudaOptions  # noqa: E402
from handlers.base import threads_per_worker  # noqa: E402
from handlers.context import LocalContext  # noqa: E402
from handlers.entry import Entry  # noqa: E402
from handlers.passport import Passport  # noqa: E402
from handlers.runtimes import Loaded  # noqa: E402
from handlers.runtimes.device import DeviceRuntime, Size  # noqa: E402
from handlers.runtimes.torchscript_cuda import TorchScriptCuda  # noqa: E402
from handlers.segmentation import SegmentationHandler  # noqa: E402
from repack import archive  # noqa: E402

TIMES = 3
RUNS = 5
PLAIN = "eager f32"


class Eager(TorchScriptCuda):
    """A network as PyTorch runs it: call by call, no graph, TF32 where PyTorch takes it."""

    name = "eager"

    def open(self) -> None:
        self._dtype = self.torch.float32
        net = Net().eval().requires_grad_(False)
        net.load_state_dict(self.torch.load(self.folder / "net.pt", weights_only=True))
        self._module = net.to(self.device)

    def _captured(self, size: Size) -> Size:
        return size


def main() -> None:
    """Times every archive of the store and the plain way, then compares their masks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archives", type=Path, metavar="STORE", required=True)
    parser.add_argument("--volume", type=Path, required=True, help="the scan, net.pt beside it")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    body = given.volume.read_bytes()
    result: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/volumes_gpu.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "volume": {"file_mb": round(len(body) / 1e6, 1)},
        "rows": [],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    masks: dict[str, NDArray[Any]] = {}
    with tempfile.TemporaryDirectory(prefix="vg-") as tmp:
        record = None
        for path in sorted(given.archives.glob("*.mar")):
            folder = Path(tmp) / path.stem
            record = archive.unpack(path, folder)
            entry, context = Entry(), LocalContext(folder)
            entry.initialize(context)
            row, masks[path.stem] = timed(path.stem, entry.handler, context, body)  # type: ignore[arg-type]
            result["rows"].append({**row, "versions": record.versions})
            save(result, given.out)
            del entry
        if record is None:
            raise SystemExit(f"no archive in {given.archives}")
        handler = plain(record, given.volume.parent)
        row, masks[PLAIN] = timed(PLAIN, handler, LocalContext(given.volume.parent), body)
        result["rows"].append(row)
    for other in result["rows"][:-1]:
        other["dice_with_plain"] = dice(masks[other["name"]], masks[PLAIN])
        other["times_as_fast"] = round(row["seconds"] / other["seconds"], 2)
        other["window_times_as_fast"] = round(row["window_ms"] / other["window_ms"], 2)
    save(result, given.out)
    print(table(result))


def plain(record: Passport, folder: Path) -> SegmentationHandler:
    """The archive's handler around the network in eager mode."""
    options = TorchScriptCudaOptions(outputs=tuple(s.name for s in record.outputs), batches=(1,))
    artefact = Artefact("torchscript-cuda", (), "f32", {"label": "f32"}, "tensors", options)
    runtime = Eager(folder, artefact, record.inputs)
    runtime.activate()
    return SegmentationHandler(record, Loaded(runtime, artefact), threads_per_worker())


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "GPU": torch.cuda.get_device_name(),
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "threads": threads_per_worker(),
        "cuDNN may use TF32": torch.backends.cudnn.allow_tf32,
    }


def timed(
    name: str, handler: SegmentationHandler, context: LocalContext, body: bytes
) -> tuple[dict[str, Any], NDArray[Any]]:
    """One way: its network alone, and the volume end to end; and the mask ``[z, y, x]``."""
    runtime = handler.runtime
    assert isinstance(runtime, DeviceRuntime)
    row: dict[str, Any] = {
        "name": name,
        "runtime": runtime.name,
        "precision": runtime.precision,
        "fallback": handler.fallback,
        "window_ms": round(min(runtime.time(1, 20) for _ in range(TIMES)), 3),
    }
    torch.cuda.reset_peak_memory_stats()
    seconds, stages = [], []
    for _ in range(RUNS + 1):
        context.metrics.totals.clear()
        sent = bytearray(body)
        began = time.perf_counter()
        (answer,) = handler.handle([{"body": sent}], context)
        seconds.append(time.perf_counter() - began)
        stages.append(context.stages_ms)
        if context.statuses != [200]:
            raise SystemExit(f"{name}: {context.statuses} {answer[:300]!r}")
    best = min(range(1, RUNS + 1), key=seconds.__getitem__)
    row["seconds"] = round(sorted(seconds[1:])[RUNS // 2], 3)
    row["seconds_each"] = [round(s, 3) for s in seconds]
    row["stages_ms_of_fastest"] = {k: round(v, 1) for k, v in stages[best].items()}
    row["windows"] = context.metrics.totals["handler_windows", "Model"]
    row["headers"] = context.response_headers[0]
    row["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
    return row, mask_of(answer, row)


def mask_of(answer: bytes, row: dict[str, Any]) -> NDArray[Any]:
    """The voxels of an answered mask; notes their share of each label."""
    found = np.frombuffer(gzip.decompress(answer), np.uint8, offset=352).reshape(SHAPE)
    shares = np.bincount(found.reshape(-1), minlength=len(LABELS)) / found.size
    row["label_shares"] = {n: round(float(s), 4) for n, s in zip(LABELS, shares, strict=True)}
    row["answer_mb"] = round(len(answer) / 1e6, 2)
    return found


def dice(a: NDArray[Any], b: NDArray[Any]) -> dict[str, float]:
    """Overlap of each label but the background's in two masks, 0 to 1."""
    found = {}
    for value, name in list(enumerate(LABELS))[1:]:
        here, there = a == value, b == value
        both = 2 * int((here & there).sum())
        found[name] = round(both / max(1, int(here.sum()) + int(there.sum())), 6)
    return found


def save(result: Mapping[str, Any], out: Path) -> None:
    """Writes what there is so far: a run on a borrowed machine may end early."""
    text = json.dumps(result, indent=1)
    (out / "volumes_gpu.json").write_text(text + "\n", encoding="utf-8")
    (out / "volumes_gpu.md").write_text(table(result), encoding="utf-8")


def table(result: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    z, y, x = SHAPE
    lines = ["# A volume on a GPU", "", f"`{result['command']}`, {result['date']}", ""]
    lines += [f"- {k}: {v}" for k, v in result["machine"].items()]
    lines += [
        f"- {x}x{y}x{z} int16 voxels, .nii.gz of {result['volume']['file_mb']} MB; windows of "
        + "x".join(map(str, PATCH)),
        "",
        "| way | precision | ms a window | faster | windows | volume, s | faster | decode "
        "| preprocess | infer | postprocess | encode | Dice with eager f32 |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in result["rows"]:
        stages = row["stages_ms_of_fastest"]
        names = ("decode", "preprocess", "infer", "postprocess", "encode")
        shown = " | ".join(f"{stages.get(name, 0):,.0f}" for name in names)
        overlap = ", ".join(f"{k} {v:.4f}" for k, v in row.get("dice_with_plain", {}).items())
        lines.append(
            f"| {row['name']} ({row['runtime']}) | {row['precision']} | {row['window_ms']} "
            f"| {row.get('window_times_as_fast', '')} | {row['windows']:.0f} "
            f"| {row['seconds']:.2f} | {row.get('times_as_fast', '')} | {shown} | {overlap} |"
        )
    return "\n".join(
        [*lines, "", "Stages in ms, of the fastest run; the volume's time is the median.", ""]
    )


if __name__ == "__main__":
    main()
