"""Train the shipped 3-D U-Net on synthetic airways and vessels.

    python examples/vessels/train.py --minutes 2.5 --out out/

The cases are made in memory from their seeds before the clock starts. The schedule follows the
clock: ``--minutes`` is the training time, and the learning rate reaches its end when it is up.
The folder ``--out`` gets the checkpoint and METRICS.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path[0] = str(Path(__file__).resolve().parents[2])

from examples.vessels import dataset  # noqa: E402
from examples.vessels.cases import HELD_OUT_SEED, LABELS, TRAIN_SEED  # noqa: E402
from examples.vessels.evaluate import figures, load  # noqa: E402
from examples.vessels.network import CHANNELS, Net  # noqa: E402
from examples.vessels.plain import PATCH, normalised  # noqa: E402

WARM_UP, LAST = 0.05, 0.01
"""Share of the time that the learning rate rises, and its final share of the peak."""
CASE = (96, 160, 160)
"""Voxels of a training case; its patches are cut at random places."""


@dataclass(frozen=True)
class Data:
    """Scans ``int16 [N, Z, Y, X]`` and labels ``uint8 [N, Z, Y, X]`` on one device."""

    scans: Tensor
    labels: Tensor

    def batch(
        self, size: int, patch: tuple[int, ...], random: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Random patches: ``float32 [size, 1, D, H, W]`` normalised, ``int64 [size, D, H, W]``.

        Mirrored, turned in the slice and shifted in intensity at random.
        """
        pairs = [self._patch(patch, random) for _ in range(size)]
        return torch.stack([x for x, _ in pairs])[:, None], torch.stack([y for _, y in pairs])

    def _patch(self, patch: tuple[int, ...], random: np.random.Generator) -> tuple[Tensor, Tensor]:
        which = int(random.integers(len(self.scans)))
        low = [int(random.integers(n - p + 1)) for n, p in zip(CASE, patch, strict=True)]
        box = tuple(slice(a, a + p) for a, p in zip(low, patch, strict=True))
        x, y = self.scans[which][box].float(), self.labels[which][box].long()
        mirrored = [axis for axis in range(3) if random.random() < 0.5]
        x, y = x.flip(mirrored), y.flip(mirrored)
        if patch[1] == patch[2] and random.random() < 0.5:
            x, y = x.transpose(1, 2), y.transpose(1, 2)
        x = x * random.uniform(0.95, 1.05) + random.uniform(-30, 30)
        x = x + random.uniform(0, 25) * torch.randn_like(x)
        return normalised(x), y


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy plus one less the mean soft Dice of the labels other than background.

    Args:
        logits: ``float [N, K, D, H, W]``.
        labels: ``int64 [N, D, H, W]``.
    """
    logits = logits.float()
    share = logits.softmax(1)
    overlap, both = [], []
    for label in range(1, logits.shape[1]):
        real = (labels == label).float()
        overlap.append((share[:, label] * real).sum())
        both.append(share[:, label].sum() + real.sum())
    dice = (2 * torch.stack(overlap) + 1) / (torch.stack(both) + 1)
    return F.cross_entropy(logits, labels) + 1 - dice.mean()


def rate(done: float) -> float:
    """Share of the peak learning rate after the share ``done`` of the time."""
    if done < WARM_UP:
        return max(done / WARM_UP, 0.01)
    part = min((done - WARM_UP) / (1 - WARM_UP), 1)
    return LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * part))


def train(options: argparse.Namespace, data: Data) -> nn.Module:
    """Train for ``options.minutes`` and return the averaged weights' module."""
    device = data.scans.device
    cuda = device.type == "cuda"
    module = Net(options.channels).to(device)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(options.ema))
    decayed = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.03}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.rate, fused=cuda)
    random = np.random.default_rng(options.seed)

    def step() -> Tensor:
        x, y = data.batch(options.batch, tuple(options.patch), random)
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            logits = module(x)
        loss = loss_of(logits, y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        optimizer.step()
        return loss.detach()

    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step()  # before the clock: kernels are chosen
    begun = shown = time.perf_counter()
    steps, mean = 0, torch.zeros((), device=device)
    while (done := (time.perf_counter() - begun) / (options.minutes * 60)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = options.rate * rate(done)
        mean = mean.lerp(step(), 0.05 if steps else 1.0)
        average.update_parameters(module)
        steps += 1
        if time.perf_counter() - shown > options.every:
            shown = time.perf_counter()
            speed = steps * options.batch / (shown - begun)
            line = f"{done:4.0%} step {steps} loss {mean.item():.4f} {speed:.1f} patches/s"
            print(line, flush=True)
    print(f"{steps} steps of {options.batch} patches", flush=True)
    averaged: nn.Module = average.module
    return averaged.eval()


def save(module: nn.Module, channels: tuple[int, ...], path: Path) -> None:
    """Write the half-precision checkpoint, a dict that ``torch.load(weights_only=True)`` reads."""
    state = {name: value.half().cpu().clone() for name, value in module.state_dict().items()}
    partial = path.with_suffix(".partial")
    torch.save({"channels": channels, "labels": LABELS, "state_dict": state}, partial)
    partial.replace(path)


def metrics(module: nn.Module, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What METRICS.json says: Dice per recorded shape, and how the weights came about."""
    device = next(module.parameters()).device
    given = vars(options)
    names = ("minutes", "cases", "batch", "patch", "channels", "rate", "ema", "seed")
    return {
        "seed": HELD_OUT_SEED,
        "cases": figures(module, options.held_out),
        "training": {
            "command": "python examples/vessels/train.py",
            "options": {name: given[name] for name in names},
            "seconds": round(seconds),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        },
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the shipped 3-D U-Net.")
    parser.add_argument("--out", type=Path, default=Path("vessels"), help="folder to write into")
    parser.add_argument("--minutes", type=float, default=2.5, help="training time, without set-up")
    parser.add_argument("--cases", type=int, default=320, help="training cases")
    parser.add_argument("--held-out", type=int, default=8, help="at most so many held-out cases")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, nargs=3, default=PATCH, metavar=("Z", "Y", "X"))
    parser.add_argument("--channels", type=int, nargs="+", default=CHANNELS)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--ema", type=float, default=0.995, help="decay of the weights' average")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="case makers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between loss lines")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Make the cases, train, save, read the checkpoint back and score it."""
    options = parse(arguments)
    begun = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    made = dataset.make(TRAIN_SEED, options.cases, CASE, options.processes)
    print(f"cases made in {time.perf_counter() - begun:.0f} s", flush=True)
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    scans, labels = (torch.from_numpy(part).to(options.device) for part in made)
    module = train(options, Data(scans, labels))
    path = options.out / "unet_vessels.pt"
    save(module, tuple(options.channels), path)
    trained = time.perf_counter() - begun
    stored = load(path).to(options.device)
    record = metrics(stored, options, trained)
    (options.out / "METRICS.json").write_text(json.dumps(record, indent=2) + "\n")
    seconds = time.perf_counter() - begun
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {trained:.0f} s, {seconds:.0f} s in all")


if __name__ == "__main__":
    main()
