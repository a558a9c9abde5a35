"""Measures a whole CT volume through a 3-D U-Net of nnU-Net's size, on an NVIDIA GPU.

    python benchmarks/volumes_gpu.py --make FOLDER
    python repack/model_repack.py --weights FOLDER/net.pt --network benchmarks.volumes_gpu:Net \\
        --volumes FOLDER/volumes.yaml --backend tensorrt --via onnx --precision f16 --batch 1 \\
        --name big --model-store STORE
    python repack/model_repack.py ... --backend torchscript-cuda --precision f32 --name big-f32 ...
    python benchmarks/volumes_gpu.py --archives STORE --volume FOLDER/scan.nii.gz --out DIR

Every archive of ``STORE`` is timed alone (one window, graph replays) and end to end: the bytes of
the ``.nii.gz`` to those of the mask, through the handler in this process. The plain road is the
f32 TorchScript module behind the same handler, so that the factor is the network's own. Writes
``volumes_gpu.json`` and ``volumes_gpu.md``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

PATCH = (128, 160, 112)
SHAPE = (300, 512, 512)
SPACING = (1.0, 0.8, 0.8)
CHANNELS = (32, 64, 128, 256, 320, 320)
STRIDES = ((1, 1, 1), *[(2, 2, 2)] * 4, (2, 2, 1))
LABELS = ("background", "organ", "vessel")
CT = {"lower": -160, "upper": 300, "mean": 20.0, "std": 60.0}
TIMES = 3
RUNS = 5
EAGER_CALLS = 20


class Stage(nn.Sequential):
    """Twice convolution, instance norm, leaky ReLU: nnU-Net's plain block."""

    def __init__(self, inputs: int, outputs: int, stride: Sequence[int] = (1, 1, 1)):
        layers: list[nn.Module] = []
        for i, first in enumerate((inputs, outputs)):
            step = tuple(stride) if i == 0 else 1
            layers.append(nn.Conv3d(first, outputs, 3, step, 1))  # type: ignore[arg-type]
            layers += [nn.InstanceNorm3d(outputs, affine=True), nn.LeakyReLU(0.01)]
        super().__init__(*layers)


class Net(nn.Module):
    """``[n, 1, *patch]`` to logits ``[n, 3, *patch]``: six resolutions, as nnU-Net plans a CT."""

    def __init__(self) -> None:
        super().__init__()
        before = (1, *CHANNELS)
        self.encoder = nn.ModuleList(map(Stage, before, CHANNELS, STRIDES))
        pairs = list(zip(CHANNELS[:0:-1], CHANNELS[-2::-1], STRIDES[:0:-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose3d(a, b, s, s) for a, b, s in pairs)
        self.decoder = nn.ModuleList(Stage(2 * b, b) for _, b, _ in pairs)
        self.last = nn.Conv3d(CHANNELS[0], len(LABELS), 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for stage in self.encoder:
            x = stage(x)
            kept.append(x)
        kept.pop()
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = stage(torch.cat([up(x), kept.pop()], 1))
        found: Tensor = self.last(x)
        return found


def main() -> None:
    """Makes what is measured, or measures it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="weights, YAML and scan")
    parser.add_argument("--archives", type=Path, metavar="STORE")
    parser.add_argument("--volume", type=Path, help="the scan; net.pt beside it is timed in eager")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    if given.make:
        make(given.make)
    elif given.archives and given.volume:
        measure(given)
    else:
        parser.error("--make FOLDER, or --archives STORE and --volume FILE")


def make(folder: Path) -> None:
    """Writes ``net.pt``, ``volumes.yaml`` and ``scan.nii.gz``."""
    import nibabel as nib

    folder.mkdir(parents=True, exist_ok=True)
    voxels = scan()
    image = nib.Nifti1Image(voxels.T, np.diag([*SPACING[::-1], 1.0]))
    (folder / "scan.nii.gz").write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))
    torch.save(weights(voxels).state_dict(), folder / "net.pt")
    numbers = ", ".join(f"{k}: {v}" for k, v in CT.items())
    (folder / "volumes.yaml").write_text(
        f"channels:\n  - {{name: CT, normalisation: {{kind: ct, {numbers}}}}}\n"
        f"labels: [{', '.join(LABELS)}]\npatch: {list(PATCH)}\n",
        encoding="utf-8",
    )


def scan() -> NDArray[np.int16]:
    """``[z, y, x]`` int16: a body in air with organs and a vessel, and a scanner's noise, HU."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    found = np.empty(SHAPE, np.int16)
    for z, plane in enumerate(found):
        values = np.full(plane.shape, -1000.0, np.float32)
        body = ((y - 256) / 180) ** 2 + ((x - 256) / 230) ** 2 < 1 + 0.1 * np.sin(z / 40)
        values[body] = 40
        for down, across, radius, hu in (
            (200, 180, 60, 110),
            (300, 330, 50, -80),
            (256, 256, 25, 280),
        ):
            middle = down + 10 * np.sin(z / 30)
            values[(y - middle) ** 2 + (x - across) ** 2 < radius**2] = hu
        values += random.normal(0, 12, plane.shape)
        plane[...] = np.clip(values, -1024, 3071)
    return found


def weights(voxels: NDArray[np.int16]) -> Net:
    """Seeded weights; norms are not the identity, and every label wins about as often."""
    torch.manual_seed(0)
    net = Net().eval()
    middle = voxels[140:204, 200:264, 150:182].astype(np.float32)
    x = (np.clip(middle, CT["lower"], CT["upper"]) - CT["mean"]) / CT["std"]
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.InstanceNorm3d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        logits = net(torch.from_numpy(x)[None, None])[0].flatten(1)
        mean, spread = logits.mean(1), logits.std(1)
        net.last.weight /= spread[:, None, None, None, None]
        assert net.last.bias is not None
        net.last.bias.copy_((net.last.bias - mean) / spread)
    return net


def measure(given: argparse.Namespace) -> None:
    """Times every archive of the store, then compares their masks."""
    result: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/volumes_gpu.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "archives": [],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    net = given.volume.with_name("net.pt")
    if net.exists():
        result["eager_f32_ms"] = eager(net)
    body = given.volume.read_bytes()
    result["volume"] = {"file_mb": round(len(body) / 1e6, 1)}
    masks: dict[str, NDArray[Any]] = {}
    for path in sorted(given.archives.glob("*.mar")):
        row, mask = one(path, body)
        result["archives"].append(row)
        masks[path.stem] = mask
        save(result, given.out)
    plain = next((r for r in result["archives"] if is_plain(r)), None)
    for row in result["archives"]:
        if plain and row is not plain:
            row["dice_with_f32"] = dice(masks[row["archive"]], masks[plain["archive"]])
            row["times_as_fast"] = round(plain["seconds"] / row["seconds"], 2)
    save(result, given.out)
    print(table(result))


def is_plain(row: Mapping[str, Any]) -> bool:
    return bool(row["runtime"] == "torchscript-cuda" and row["precision"] == "f32")


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    from handlers.base import threads_per_worker

    return {
        "GPU": torch.cuda.get_device_name(),
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "threads": threads_per_worker(),
        "cuDNN may use TF32": torch.backends.cudnn.allow_tf32,
    }


def eager(path: Path) -> float:
    """Milliseconds of one window in PyTorch's eager mode, f32, between two events."""
    net = Net().eval()
    net.load_state_dict(torch.load(path, weights_only=True))
    net.cuda()
    x = torch.randn((1, 1, *PATCH), device="cuda")
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.inference_mode():
        for _ in range(3):
            net(x)
        begin.record()
        for _ in range(EAGER_CALLS):
            net(x)
        end.record()
        end.synchronize()
    ms = float(begin.elapsed_time(end)) / EAGER_CALLS
    del net, x
    torch.cuda.empty_cache()
    return round(ms, 3)


def one(path: Path, body: bytes) -> tuple[dict[str, Any], NDArray[Any]]:
    """One archive: its network alone, and the volume end to end; and the mask ``[z, y, x]``."""
    from handlers.context import LocalContext
    from handlers.entry import Entry
    from handlers.runtimes.device import DeviceRuntime
    from repack import archive

    with tempfile.TemporaryDirectory(prefix="vg-") as folder:
        passport = archive.unpack(path, Path(folder))
        context = LocalContext(Path(folder))
        entry = Entry()
        entry.initialize(context)
        runtime = entry.handler.runtime
        row: dict[str, Any] = {
            "archive": path.stem,
            "runtime": runtime.name,
            "precision": runtime.precision,
            "fallback": entry.handler.fallback,
            "versions": passport.versions,
        }
        if isinstance(runtime, DeviceRuntime):
            row["window_ms"] = round(min(runtime.time(1, 20) for _ in range(TIMES)), 3)
        seconds, stages = [], []
        for _ in range(RUNS + 1):
            context.begin()
            context.metrics.totals.clear()
            sent = bytearray(body)
            began = time.perf_counter()
            (answer,) = entry.handle([{"body": sent}], context)
            seconds.append(time.perf_counter() - began)
            stages.append(context.stages_ms)
            if context.statuses != [200]:
                raise SystemExit(f"{path.name}: {context.statuses} {answer[:300]!r}")
        best = min(range(1, RUNS + 1), key=seconds.__getitem__)
        row["seconds"] = round(sorted(seconds[1:])[RUNS // 2], 3)
        row["seconds_each"] = [round(s, 3) for s in seconds]
        row["stages_ms_of_fastest"] = {k: round(v, 1) for k, v in stages[best].items()}
        row["windows"] = context.metrics.totals["handler_windows", "Model"]
        row["headers"] = context.response_headers[0]
        row["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
    del entry, runtime
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
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
        f"- {x}x{y}x{z} int16 voxels, .nii.gz of {result['volume']['file_mb']} MB",
        f"- one window of {'x'.join(map(str, PATCH))} in eager f32: "
        f"{result.get('eager_f32_ms', 'not measured')} ms",
        "",
        "| archive | runtime | precision | ms a window | windows | volume, s | decode | preprocess "
        "| infer | postprocess | encode | faster | Dice with f32 |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in result["archives"]:
        stages = row["stages_ms_of_fastest"]
        names = ("decode", "preprocess", "infer", "postprocess", "encode")
        shown = " | ".join(f"{stages.get(name, 0):,.0f}" for name in names)
        overlap = ", ".join(f"{k} {v:.4f}" for k, v in row.get("dice_with_f32", {}).items())
        lines.append(
            f"| {row['archive']} | {row['runtime']} | {row['precision']} "
            f"| {row.get('window_ms', '')} | {row['windows']:.0f} | {row['seconds']:.2f} | {shown} "
            f"| {row.get('times_as_fast', '')} | {overlap} |"
        )
    return "\n".join(
        [*lines, "", "Stages in ms, of the fastest run; the volume's time is the median.", ""]
    )


if __name__ == "__main__":
    main()
