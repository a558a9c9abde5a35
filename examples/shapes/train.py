"""Train the shipped YOLOv5n on synthetic scenes.

    python examples/shapes/train.py --minutes 7 --out shapes.pt

The data are made in memory from their seeds and kept on the training device. The schedule follows
the clock: ``--minutes`` is the training time, and the learning rate reaches its end when it is up.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path[0] = str(Path(__file__).resolve().parents[2])

from examples.shapes import dataset, progress  # noqa: E402
from examples.shapes.loss import detection_loss  # noqa: E402
from examples.shapes.scenes import CLASSES, HELD_OUT_SEED, TRAIN_SEED  # noqa: E402
from repack.networks.yolov5 import STRIDES, Detect, YOLOv5  # noqa: E402

NETWORK = "yolov5n"
WARM_UP, LAST = 0.04, 0.01
"""Share of the time that the learning rate rises, and its final share of the peak."""


@dataclass(frozen=True)
class Data:
    """Pictures ``uint8 [N, 3, 640, 640]`` and targets ``float32 [N, M, 5]`` on one device."""

    pictures: Tensor
    targets: Tensor

    def batches(self, size: int, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless shuffled batches."""
        while True:
            order = torch.randperm(len(self.pictures), generator=random).to(self.pictures.device)
            for start in range(0, len(order) - size + 1, size):
                which = order[start : start + size]
                yield self.pictures[which], self.targets[which]


def augment(pictures: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Random flips, transposition, channel order, gain and offset, drawn for each picture.

    Args:
        pictures: ``uint8 [N, 3, S, S]``.
        targets: ``float [N, M, 5]``: class, x1, y1, x2, y2 in pixels.

    Returns:
        Pictures ``float32 [N, 3, S, S]`` in 0..1, and their targets.
    """
    n, side, device = len(pictures), pictures.shape[3], pictures.device
    x, kinds, boxes = pictures, targets[..., :1], targets[..., 1:]
    mirror, turn, swap = (torch.rand(3, n, device=device) < 0.5)[..., None, None]
    x1, y1, x2, y2 = boxes.unbind(2)
    x = torch.where(mirror[..., None], x.flip(3), x)
    boxes = torch.where(mirror, torch.stack((side - x2, y1, side - x1, y2), 2), boxes)
    x1, y1, x2, y2 = boxes.unbind(2)
    x = torch.where(turn[..., None], x.flip(2), x)
    boxes = torch.where(turn, torch.stack((x1, side - y2, x2, side - y1), 2), boxes)
    x = torch.where(swap[..., None], x.transpose(2, 3), x)
    boxes = torch.where(swap, boxes[..., [1, 0, 3, 2]], boxes)
    channels = torch.rand(n, 3, device=device).argsort(1)
    x = x[torch.arange(n, device=device)[:, None], channels].float() / 255
    gain = 0.7 + 0.45 * torch.rand(n, 1, 1, 1, device=device)
    tint = 0.9 + 0.2 * torch.rand(n, 3, 1, 1, device=device)
    offset = 0.12 * torch.rand(n, 1, 1, 1, device=device) - 0.06
    return (x * gain * tint + offset).clamp(0, 1), torch.cat((kinds, boxes), 2)


def build(anchors: NDArray[np.float32]) -> YOLOv5:
    """A fresh network with these anchors (``[3, 3, 2]`` pixels) and rare-object output biases."""
    module = YOLOv5(NETWORK, len(CLASSES))
    head = cast(Detect, module.model[24])
    cells = torch.from_numpy(anchors) / torch.tensor(STRIDES).view(3, 1, 1)
    head.anchors.copy_(cells)
    with torch.no_grad():
        for convolution, stride in zip(head.m, STRIDES, strict=True):
            bias = cast(Tensor, convolution.bias).view(head.per_cell, head.outputs)
            bias[:, 4] = math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] = math.log(0.6 / (len(CLASSES) - 0.99))
    return module


def save(module: YOLOv5, anchors: NDArray[np.float32], path: Path) -> None:
    """Write the half-precision checkpoint, a dict that ``torch.load(weights_only=True)`` reads."""
    state = {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous().clone()
        for name, value in module.state_dict().items()
    }
    checkpoint = {
        "family": "yolov5",
        "network": NETWORK,
        "names": list(CLASSES),
        "anchors": torch.from_numpy(anchors),
        "state_dict": state,
    }
    partial = path.with_suffix(".partial")
    torch.save(checkpoint, partial)
    partial.replace(path)


def optimizer_for(module: YOLOv5, peak: float, fused: bool) -> torch.optim.AdamW:
    """AdamW that decays convolution weights and leaves biases and norms alone."""
    decay = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.03}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.99), fused=fused)


def rate(done: float) -> float:
    """Share of the peak learning rate after the share ``done`` of the time."""
    if done < WARM_UP:
        return max(done / WARM_UP, 0.01)
    return LAST + (1 - LAST) * 0.5 * (
        1 + math.cos(math.pi * min((done - WARM_UP) / (1 - WARM_UP), 1))
    )


def report(title: str, module: YOLOv5, held_out: Data, batch: int) -> None:
    """Print AP per class on the held-out scenes."""
    module.eval()
    found = progress.predict(module, held_out.pictures, batch)
    table = progress.average_precision(found, held_out.targets.cpu().numpy(), CLASSES)
    cells = "  ".join(f"{name} {fifty:.4f}/{mean:.4f}" for name, (fifty, mean) in table.items())
    print(f"{title}: mAP50/mAP50-95 over {len(held_out.pictures)}: {cells}", flush=True)


def train(
    options: argparse.Namespace, training: Data, held_out: Data, anchors: NDArray[np.float32]
) -> YOLOv5:
    """Train for ``options.minutes`` and return the averaged weights' module."""
    device = training.pictures.device
    cuda = device.type == "cuda"
    module = build(anchors).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decay = get_ema_multi_avg_fn(options.ema)
    average = AveragedModel(module, multi_avg_fn=decay, use_buffers=True)
    averaged = cast(YOLOv5, average.module)
    optimizer = optimizer_for(module, options.rate, cuda)
    forward = torch.compile(module) if options.compile else module
    pixels = torch.from_numpy(anchors).to(device)
    batches = training.batches(options.batch, torch.Generator().manual_seed(options.seed))

    def loss_of(pictures: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        x, y = augment(pictures, targets)
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            raw = forward(x.contiguous(memory_format=torch.channels_last))
        return detection_loss(raw, y, pixels)

    module.train()
    torch.autograd.backward(loss_of(*next(batches))[0])  # before the clock: kernels are chosen
    optimizer.zero_grad()
    start = shown = checked = time.perf_counter()
    step, parts = 0, torch.zeros(3, device=device)
    while (done := (time.perf_counter() - start) / (options.minutes * 60)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = options.rate * rate(done)
        loss, latest = loss_of(*next(batches))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(module)
        parts.lerp_(latest, 0.05 if step else 1.0)
        step += 1
        now = time.perf_counter()
        if now - shown > options.every:
            box, objectness, kind = parts.tolist()
            speed = step * options.batch / (now - start)
            print(
                f"{done:4.0%} step {step} loss {box + objectness + kind:.4f} (box {box:.4f} object"
                f" {objectness:.4f} class {kind:.4f}) {speed:.0f} pictures/s",
                flush=True,
            )
            shown = now
        if now - checked > options.check:
            subset = Data(held_out.pictures[:300], held_out.targets[:300])
            report("held out", averaged, subset, options.batch)
            save(averaged, anchors, options.out)
            checked = time.perf_counter()
    return averaged.eval()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the shipped YOLOv5n on synthetic scenes.")
    parser.add_argument("--out", type=Path, default=Path("shapes.pt"), help="checkpoint to write")
    parser.add_argument("--minutes", type=float, default=7.0, help="training time, without set-up")
    parser.add_argument("--scenes", type=int, default=24000, help="training scenes")
    parser.add_argument("--held-out", type=int, default=1000, help="held-out scenes")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument(
        "--ema", type=float, default=0.998, help="decay of the weights' average per step"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="scene makers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between loss lines")
    parser.add_argument("--check", type=float, default=60.0, help="seconds between validations")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    parser.add_argument("--compile", action="store_true", help="train through torch.compile")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Make the data, train, save, read the checkpoint back and report on it."""
    options = parse(arguments)
    begun = time.perf_counter()
    made = dataset.make(TRAIN_SEED, options.scenes, options.processes)
    anchors = dataset.anchors_for(made[1])
    checks = dataset.make(HELD_OUT_SEED, options.held_out, options.processes, square=True)
    print(
        f"scenes made in {time.perf_counter() - begun:.0f} s; anchors {anchors.tolist()}",
        flush=True,
    )
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    training, held_out = (
        Data(torch.from_numpy(p).to(options.device), torch.from_numpy(t).to(options.device))
        for p, t in (made, checks)
    )
    del made, checks
    module = train(options, training, held_out, anchors)
    report("before rounding to half", module, held_out, options.batch)
    save(module, anchors, options.out)
    stored = torch.load(options.out, map_location="cpu", weights_only=True)
    module = build(stored["anchors"].numpy())
    module.load_state_dict({name: v.float() for name, v in stored["state_dict"].items()})
    report("as stored", module.to(options.device), held_out, options.batch)
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {size:.2f} MB, {time.perf_counter() - begun:.0f} s in all")
    if torch.cuda.is_available():
        print(f"at most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of GPU memory")


if __name__ == "__main__":
    main()
