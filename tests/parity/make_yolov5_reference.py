"""Writes checkpoints and reference answers with the real ``yolov5`` package.

Runs in an environment of its own that holds ``yolov5`` 7.0.14 (see README.md beside this file),
never in the kit's. For each size it writes ``<size>.pt`` (official layout: fp16, the whole model
pickled) and ``<size>.npz`` (inputs, the package's raw outputs, the package's boxes).

    python make_yolov5_reference.py OUT [--images DIR] [--sizes n,s,m]
    python make_yolov5_reference.py OUT --tiny      # the small files under tests/data/
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import importlib.metadata
import lzma
import os
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision_stand_in import stand_in_for_torchvision

CONFIDENCE, IOU, MAX_DETECTIONS = 0.25, 0.45, 300
SEEDS = {"n": 11, "s": 12, "m": 13}
TINY_NAMES = ["circle", "square", "triangle"]


def pictures(side: int, count: int) -> list[np.ndarray[Any, Any]]:
    """Synthetic ``[side, side, 3]`` uint8 pictures: gradients, rectangles, discs, noise."""
    result = []
    for seed in range(count):
        rng = np.random.default_rng(100 + seed)
        y, x = np.mgrid[0:side, 0:side] / side
        weights = rng.uniform(0, 255, (3, 2))
        picture = np.stack([w[0] * x + w[1] * y for w in weights], 2) / 2
        for _ in range(12):
            cx, cy, r = rng.uniform(0, 1, 3) * (1, 1, 0.2)
            disc = (x - cx) ** 2 + (y - cy) ** 2 < r**2
            square = (abs(x - cy) < r) & (abs(y - cx) < r)
            picture[disc] = rng.uniform(0, 255, 3)
            picture[square] = rng.uniform(0, 255, 3)
        picture += rng.normal(0, 6, picture.shape)
        result.append(picture.clip(0, 255).astype(np.uint8))
    return result


def photographs(folder: Path, side: int) -> list[np.ndarray[Any, Any]]:
    """The folder's JPEGs, letterboxed by the package itself, RGB uint8 ``[side, side, 3]``."""
    import cv2
    from yolov5.utils.augmentations import letterbox

    files = sorted(folder.glob("*.jpg"))
    return [letterbox(cv2.imread(str(f)), side, auto=False)[0][:, :, ::-1].copy() for f in files]


def as_input(stack: np.ndarray[Any, Any]) -> torch.Tensor:
    """``[N, H, W, 3]`` uint8 to ``[N, 3, H, W]`` float32 in 0..1."""
    return torch.from_numpy(stack.transpose(0, 3, 1, 2).copy()).float() / 255


@torch.no_grad()
def enliven(model: Any, seed: int, stack: np.ndarray[Any, Any], objectness: float = 5.0) -> None:
    """Random weights whose activations keep their spread on ``stack`` and find something there.

    ``stack``: pictures ``[N, H, W, 3]`` uint8. A network that is not fitted to its pictures lets
    its activations grow from layer to layer, and their rounding with them.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: torch.Tensor, spread: float) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator) * spread

    norms: list[Any] = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the statistics of the one batch that follows
        norm.reset_running_stats()
        norm.weight.copy_(0.5 + noise(norm.weight, 0.1))
        norm.bias.copy_(noise(norm.bias, 0.1))
    model.train()
    model(as_input(stack))
    for norm in norms:
        norm.momentum = 0.03
        norm.running_mean += noise(norm.running_mean, 0.02) * norm.running_var.sqrt()
        norm.running_var *= 1 + noise(norm.running_var, 0.05).clamp(-0.3, 0.3)
    model.eval()
    head = model.model[-1]
    if hasattr(head, "linear"):
        head.linear.weight.copy_(noise(head.linear.weight, 0.3))
        return
    for conv in head.m:
        conv.weight.copy_(noise(conv.weight, 1))
        conv.bias.zero_()
    maps = model(as_input(stack))[-1]  # [N, anchors, H, W, 5 + classes]
    wanted = torch.tensor([1.0, 1.0, 0.6, 0.6, 1.5] + [1.5] * (maps[0].shape[-1] - 5))
    for conv, logits in zip(head.m, maps, strict=True):
        middle, spread = logits.mean((0, 2, 3)), logits.std((0, 2, 3))
        conv.weight.mul_((wanted / spread).view(-1, 1, 1, 1))
        bias = -middle * wanted / spread + noise(spread, 0.3)
        bias[:, 4] -= objectness
        conv.bias.copy_(bias.view(-1))


@torch.no_grad()
def make_sparse(model: Any, seed: int) -> None:
    """Three values per convolution, mostly zero, so that the file compresses to little."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if not isinstance(module, torch.nn.Conv2d):
            continue
        chance = torch.rand(module.weight.shape, generator=generator)
        fan_in = module.weight[0].numel()
        share = min(1.0, max(0.06, 12 / fan_in))
        sign = (chance < share / 2).float() - (chance > 1 - share / 2).float()
        module.weight.copy_(sign * (2 / (share * fan_in)) ** 0.5)


@torch.no_grad()
def widen(model: Any, seed: int) -> None:
    """Weights that keep the variance, so that no batch norm's epsilon decides its output."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            spread = (2 / module.weight[0].numel()) ** 0.5
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * spread)


def build(size: str, names: list[str], seed: int) -> Any:
    """The package's own model of its own yaml file, and its weights made lively."""
    import yolov5
    from yolov5.models.yolo import DetectionModel

    torch.manual_seed(seed)
    config = Path(yolov5.__file__).parent / "models" / f"yolov5{size}.yaml"
    model = DetectionModel(str(config), ch=3, nc=len(names))
    model.names = dict(enumerate(names))
    return model


def checkpoint(model: Any, ema: Any) -> dict[str, Any]:
    """What the package's training writes, with the same kinds of things around the model."""
    return {
        "epoch": -1,
        "best_fitness": np.float64(0.5),
        "model": model,
        "ema": ema,
        "updates": 3,
        "optimizer": None,
        "opt": {"weights": Path("yolov5.pt"), "space": argparse.Namespace(imgsz=640)},
        "git": {"remote": None, "branch": None, "commit": None},
        "date": datetime.datetime(2026, 1, 1).isoformat(),
    }


@contextlib.contextmanager
def published_names() -> Iterator[None]:
    """``models.common`` and ``models.yolo``, the modules' names in published checkpoints."""
    import yolov5.models
    from yolov5.models import common, yolo

    aliases: dict[str, types.ModuleType] = {
        "models": yolov5.models,
        "models.common": common,
        "models.yolo": yolo,
    }
    sys.modules.update(aliases)
    try:
        yield
    finally:
        for name in aliases:
            del sys.modules[name]


def save(content: dict[str, Any], path: Path, official_names: bool) -> None:
    """``torch.save``; with ``official_names`` under ``models.*``, as the published files are."""
    from yolov5.models import common, yolo

    classes = [c for m in (common, yolo) for c in vars(m).values() if isinstance(c, type)]
    renamed = [c for c in classes if c.__module__.startswith("yolov5.models.")]
    before = {c: c.__module__ for c in renamed}
    with published_names():
        for c in renamed if official_names else ():
            c.__module__ = c.__module__.removeprefix("yolov5.")
        try:
            torch.save(content, path)
        finally:
            for c, module in before.items():
                c.__module__ = module


@torch.no_grad()
def reference(model: Any, inputs: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Raw outputs and boxes of the package, one picture at a time."""
    from yolov5.utils.general import non_max_suppression

    raw, boxes = [], []
    for picture in inputs:
        out = model(as_input(picture[None]))[0]
        raw.append(out[0].numpy())
        boxes.append(
            non_max_suppression(out, CONFIDENCE, IOU, multi_label=False, max_det=MAX_DETECTIONS)[0]
        )
    return {
        "inputs": inputs,
        "raw": np.stack(raw),
        "boxes": torch.cat(boxes).numpy(),
        "counts": np.array([len(b) for b in boxes]),
        "settings": np.array([CONFIDENCE, IOU, MAX_DETECTIONS]),
    }


def loaded(path: Path, fuse: bool) -> Any:
    """``path`` through the package's own loader, as its users get it."""
    from yolov5.models import experimental

    plain_load = torch.load
    torch.load = lambda f, **kw: plain_load(f, **{"weights_only": False, **kw})  # our own file
    experimental.attempt_download = lambda file: file  # which would ask a server first
    try:
        with published_names():
            return experimental.attempt_load(str(path), torch.device("cpu"), fuse=fuse).eval()
    finally:
        torch.load = plain_load


def make(size: str, out: Path, images: Path | None) -> None:
    """One size: checkpoint with ``model`` and a differing ``ema``, and the reference."""
    model = build(size, [f"thing {i}" for i in range(80)], SEEDS[size])
    widen(model, SEEDS[size])
    inputs = np.stack(pictures(640, 2) + (photographs(images, 640) if images else []))
    enliven(model, SEEDS[size], inputs)
    ema = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)  # whoever reads "model" instead of "ema" shows at once
    path = out / f"yolov5{size}.pt"
    save(checkpoint(model.half(), ema.half()), path, official_names=size == "n")
    fused = reference(loaded(path, True), inputs)
    plain = reference(loaded(path, False), inputs)
    difference = np.abs(fused["raw"] - plain["raw"]) / np.maximum(np.abs(plain["raw"]), 1)
    np.savez_compressed(out / f"yolov5{size}.npz", **plain)
    spread = plain["raw"][..., 4:].std()
    print(
        f"{path.name}: {plain['counts'].tolist()} boxes per picture, spread of the scores "
        f"{spread:.3f}; the package against itself fused {difference.max():.1e}"
    )


def make_tiny(out: Path) -> None:
    """The files under tests/data/: a yolov5n of three classes, stripped as for publication."""
    model = build("n", TINY_NAMES, 7)
    make_sparse(model, 7)
    enliven(model, 7, np.stack(pictures(96, 8)), objectness=3.0)
    model = model.half()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tiny.pt"
        save(checkpoint(model, None), path, official_names=True)
        packed = lzma.compress(path.read_bytes(), preset=9 | lzma.PRESET_EXTREME)
        (out / "yolov5n_official.pt.xz").write_bytes(packed)
        found = reference(loaded(path, False), np.stack(pictures(96, 2)))
    np.savez_compressed(out / "yolov5n_official.npz", **found)
    print(f"yolov5n_official.pt.xz: {len(packed)} bytes, {found['counts'].tolist()} boxes")


RELEASE_3 = {
    "backbone": [
        [-1, 1, "Focus", [64, 3]],
        [-1, 1, "Conv", [128, 3, 2]],
        [-1, 3, "BottleneckCSP", [128]],
        [-1, 1, "Conv", [256, 3, 2]],
        [-1, 9, "BottleneckCSP", [256]],
        [-1, 1, "Conv", [512, 3, 2]],
        [-1, 9, "BottleneckCSP", [512]],
        [-1, 1, "Conv", [1024, 3, 2]],
        [-1, 1, "SPP", [1024, [5, 9, 13]]],
        [-1, 3, "BottleneckCSP", [1024, False]],
    ]
}
"""That release's backbone; its neck is today's, of other blocks."""

KINDS = {
    "yolov5n6": "hub/yolov5n6.yaml",
    "yolov5n-seg": "segment/yolov5n-seg.yaml",
    "yolov5n-cls": "yolov5n.yaml",
    "yolov5n-r3": "yolov5n.yaml",
}
"""Kinds beside detectors of releases 6 and 7: the package's description that each is made of."""


def kind_of(name: str) -> Any:
    """A network of one of ``KINDS``, of few channels; of a classifier, of few values."""
    import yaml
    import yolov5
    from yolov5.models import yolo

    torch.manual_seed(5)
    told = yaml.safe_load((Path(yolov5.__file__).parent / "models" / KINDS[name]).read_text())
    if name == "yolov5n-cls":
        model = yolo.ClassificationModel(model=yolo.DetectionModel(told, ch=3), nc=3, cutoff=10)
        make_sparse(model, 5)
        return model
    told |= {"nc": 3, "width_multiple": 0.03}
    if name == "yolov5n-r3":
        told |= RELEASE_3
        for row in told["head"]:
            row[2] = "BottleneckCSP" if row[2] == "C3" else row[2]
    kind = yolo.SegmentationModel if name.endswith("seg") else yolo.DetectionModel
    model = kind(told, ch=3)
    for module in list(model.modules()) if name == "yolov5n-r3" else ():
        for child, inside in module.named_children():
            if isinstance(inside, torch.nn.SiLU):
                norms = type(module).__name__ == "BottleneckCSP"
                made = torch.nn.LeakyReLU(0.1) if norms else torch.nn.Hardswish()
                setattr(module, child, made)
    return model


@torch.no_grad()
def make_tiny_kind(name: str, out: Path) -> None:
    """``<name>_tiny.pt.xz`` and what the package answers, under tests/data/."""
    model = kind_of(name)
    model.names = dict(enumerate(TINY_NAMES))
    stack = np.stack(pictures(128, 4))
    enliven(model, 5, stack, objectness=2.0)
    model = model.half().float().eval()
    inputs = stack[:2, :, :64]
    answer = model(as_input(inputs))
    parts = [p for p in answer if isinstance(p, torch.Tensor)] if name[-3:] != "cls" else [answer]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tiny.pt"
        save(checkpoint(model.half(), None), path, official_names=True)
        packed = lzma.compress(path.read_bytes(), preset=9 | lzma.PRESET_EXTREME)
    (out / f"{name}_tiny.pt.xz").write_bytes(packed)
    named = zip(("answer", "protos"), (p.numpy() for p in parts), strict=False)
    found: dict[str, Any] = dict(named)
    if "protos" in found:
        found["protos"] = found["protos"][:, ::8]
    np.savez_compressed(out / f"{name}_tiny.npz", inputs=inputs, **found)
    print(f"{name}_tiny.pt.xz: {len(packed)} bytes, {[list(p.shape) for p in parts]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--images", type=Path, help="folder of JPEG photographs to use as well")
    parser.add_argument("--sizes", default="n,s,m", help="of n, s, m (default: all)")
    parser.add_argument("--tiny", action="store_true", help="only the small files of tests/data/")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["YOLO_CONFIG_DIR"] = scratch  # ultralytics would write into the home folder
        stand_in_for_torchvision(Path(scratch) / "stand-in")
        print("yolov5", importlib.metadata.version("yolov5"), "torch", torch.__version__)
        if options.tiny:
            make_tiny(options.out)
            for name in KINDS:
                make_tiny_kind(name, options.out)
            return
        for size in options.sizes.split(","):
            make(size, options.out, options.images)


if __name__ == "__main__":
    main()
