"""What the benchmark works on: models, pictures, accuracy and the table."""

from __future__ import annotations

import math
import warnings
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from examples.shapes import evaluate
from examples.shapes.scenes import scene
from handlers.images import encode_jpeg
from handlers.passport import Passport
from handlers.runtimes import load
from repack import archive, pipeline
from repack.backends import torchscript
from repack.model import Model
from repack.networks.yolov5 import COCO_ANCHORS, STRIDES, Detect, YOLOv5
from repack.options import Options, SourceOptions
from repack.tasks.detection.metrics import MeanAveragePrecision

SCENES = 300
BYTES = 170_000
"""About how long the files of ``pictures_of`` are."""

QUALITY = 96
"""JPEG quality that makes the 1280x720 scenes about 170 KB."""


def pictures(folder: Path, count: int, seed: int) -> Path:
    """1280x720 JPEG scenes."""
    return scenes(folder, count, seed, 1280, 720)


def pictures_of(folder: Path, count: int, seed: int, size: int) -> Path:
    """1280x720 JPEG scenes of about ``size`` bytes each, by the quality that comes nearest."""
    folder.mkdir()
    for i in range(count):
        image, _, _ = scene(seed, i, 1280, 720)
        tries = [encode_jpeg(image, quality) for quality in (84, 88, 92, 94, 96, 98)]
        best = min(tries, key=lambda data: abs(len(data) - size))
        (folder / f"{i:03}.jpg").write_bytes(best)
    return folder


def scenes(folder: Path, count: int, seed: int, width: int = 640, height: int = 640) -> Path:
    """JPEG scenes of the shapes' generator, without labels."""
    folder.mkdir()
    for i in range(count):
        image, _, _ = scene(seed, i, width, height)
        (folder / f"{i:03}.jpg").write_bytes(encode_jpeg(image, QUALITY))
    return folder


def untrained_yolov5s(path: Path) -> Path:
    """YOLOv5s for 80 classes with seeded weights and the rare-object biases training starts from.

    Speed does not depend on the weights, but for suppression, which sees as few boxes as usual.
    """
    torch.manual_seed(0)
    module = YOLOv5("yolov5s", 80)
    with torch.no_grad():
        for head, stride in zip(cast(Detect, module.model[24]).m, STRIDES, strict=True):
            bias = cast(Tensor, head.bias).view(3, -1)
            bias[:, 4] = math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] = math.log(0.6 / (80 - 0.99))
    checkpoint = {
        "family": "yolov5",
        "network": "yolov5s",
        "names": [f"class {i}" for i in range(80)],
        "anchors": torch.tensor(COCO_ANCHORS),
        "state_dict": module.state_dict(),
    }
    torch.save(checkpoint, path)
    return path


def detector(weights: Path) -> Model:
    """A checkpoint on pictures of 640x640."""
    return pipeline.load(Options(SourceOptions(weights)))


def stock_torchscript(weights: Path, path: Path) -> None:
    """The plain TorchScript file that the stock design serves."""
    torchscript.convert(detector(weights), path)


def torchscript_for_gpu(weights: Path, path: Path) -> None:
    """The same, traced where it is to run: a file that was traced on a CPU keeps tensors there."""
    module: Any = detector(weights).module
    assert module is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and what is compared
        given = torch.zeros(1, 640, 640, 3, dtype=torch.uint8, device="cuda")
        torch.jit.save(torch.jit.trace(module.cuda(), given, check_trace=False), str(path))


class Converted(nn.Module):
    """An archive's accelerated form behind the original's interface."""

    def __init__(self, folder: Path, passport: Passport, detector: YOLOv5):
        super().__init__()
        self.head = detector.head
        self.runtime = load(folder, passport, "accelerated", 2).runtime

    def forward(self, x: Tensor) -> Tensor:
        pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        answer = self.runtime.infer({"images": pixels}, every=True)
        if "boxes" in answer:
            return torch.from_numpy(np.array(answer["boxes"]))
        return torch.from_numpy(self.head.boxes([answer[name] for name in self.head.raw]))


def accuracy(path: Path, weights: Path, folder: Path) -> dict[str, Any]:
    """mAP of a checkpoint and of its archive's accelerated form over held-out scenes."""
    passport = archive.unpack(path, folder)
    module, original = _scored(weights)
    accelerated = Converted(folder, passport, module)
    converted = evaluate.evaluate(accelerated, SCENES)
    return {
        "held_out_scenes": SCENES,
        "form": f"{accelerated.runtime.name} {accelerated.runtime.precision}",
        "original": {"map50": original.map50, "map50_95": original.map50_95},
        "converted": {"map50": converted.map50, "map50_95": converted.map50_95},
    }


@cache
def _scored(weights: Path) -> tuple[YOLOv5, MeanAveragePrecision]:
    module = cast(YOLOv5, evaluate.load(weights))
    return module, evaluate.evaluate(module, SCENES)


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown, with what must be shown computed from them."""
    machine, a = result["machine"], result["accuracy_of_the_shipped_model"]
    lines = [
        "# CPU: the kit against the stock design",
        "",
        f"`{result['command']}`, {machine['cpu']}, {machine['cores']} cores, "
        + ", ".join(f"{k} {v}" for k, v in result["versions"].items() if v),
        "",
        "| side | mode | runtime | conc. | req/s (all rounds) | p50 ms | p95 ms | MB | errors |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in result["runs"]:
        speeds = ", ".join(f"{t:.1f}" for t in r["throughputs"])
        memory = ", ".join(f"{m:.0f}" for m in r["worker_rss_mb"])
        form = f"{r['runtime'] or 'torchscript'} {r['precision'] or 'f32'}"
        lines.append(
            f"| {r['side']} | {r['mode']} | {form} | {r['concurrency']} "
            f"| {r['throughput']:.1f} ({speeds}) "
            f"| {r['latency_ms']['p50']:.1f} | {r['latency_ms']['p95']:.1f} "
            f"| {memory} | {sum(r['errors'].values())} |"
        )
    lines += ["", *shown(result["runs"])]
    for key in ("map50", "map50_95"):
        lost = (a["original"][key] - a["converted"][key]) * 100
        lines.append(
            f"- {key} of the shipped model, {a['held_out_scenes']} held-out scenes: "
            f"{a['original'][key]:.4f} -> {a['converted'][key]:.4f} as {a['form']} "
            f"({lost:+.2f} points lost)"
        )
    lines += ["", "What `auto` chose from (ms: one call, batch 1, one thread):", ""]
    lines += ["| backend | precision | ms | verdict |", "|---|---|---|---|"]
    lines += [
        f"| {c['backend']} | {c['precision']} | {c['ms']} | {c['verdict']} |"
        for c in result["candidates"]
    ]
    return "\n".join(lines) + "\n"


def shown(runs: list[dict[str, Any]]) -> list[str]:
    """The ratios, each at the concurrency that is best for its side."""

    def best(side: str, mode: int) -> float:
        return float(max(r["throughput"] for r in runs if (r["side"], r["mode"]) == (side, mode)))

    def p50(mode: int) -> float:
        wanted = ("kit", mode, 1)
        one = next(r for r in runs if (r["side"], r["mode"], r["concurrency"]) == wanted)
        return float(one["latency_ms"]["p50"])

    memory = [m for r in runs if (r["side"], r["mode"]) == ("kit", 3) for m in r["worker_rss_mb"]]
    return [
        f"- served, kit over stock, each at its best: {best('kit', 3) / best('stock', 3):.2f}x",
        "- likewise, stock with one thread a worker: "
        f"{best('kit', 3) / best('stock, 1 thread', 3):.2f}x",
        f"- kit, served over its local loop, same cores: {best('kit', 3) / best('kit', 2):.2f}",
        f"- the server adds at concurrency 1, p50: {p50(3) - p50(2):.1f} ms",
        f"- resident memory per accelerated worker, largest: {max(memory):.0f} MB",
    ]
