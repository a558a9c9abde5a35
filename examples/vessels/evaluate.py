"""Dice of the shipped model on held-out cases.

    python examples/vessels/evaluate.py --count 8             # of one window each
    python examples/vessels/evaluate.py --count 2 --shape 128 256 256
    python examples/vessels/evaluate.py --record              # writes METRICS.json anew

Plain PyTorch in float32, half-overlapping windows with Gaussian weights: no runtime and no handler
is in the way, so this is what the checkpoint itself can do.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from examples.vessels.cases import HELD_OUT_SEED, LABELS, Shape, case
from examples.vessels.network import Net
from examples.vessels.plain import PATCH, dice, segment

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "unet_vessels.pt"
METRICS = HERE / "METRICS.json"
RECORDED = ((8, PATCH), (4, (128, 256, 256)))
"""Counts and shapes of held-out cases whose figures METRICS.json holds."""


def load(path: Path = WEIGHTS) -> Net:
    """The checkpoint's network, in evaluation mode, float32, on the CPU."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    module = Net(stored["channels"], len(stored["labels"]))
    module.load_state_dict({name: value.float() for name, value in stored["state_dict"].items()})
    return module.eval().requires_grad_(False)


def evaluate(module: nn.Module, count: int, shape: Shape = PATCH) -> dict[str, list[float]]:
    """Dice per label (background left out) of each of the first held-out cases of one shape.

    Args:
        module: on any device; the window is ``PATCH``.
        count: how many cases of the held-out series.
        shape: of the cases, voxels, z y x.
    """
    found: dict[str, list[float]] = {name: [] for name in LABELS[1:]}
    for index in range(count):
        truth = case(HELD_OUT_SEED, index, shape)
        mask = segment(module, truth.scan)
        for label, name in enumerate(LABELS[1:], 1):
            found[name].append(round(dice(mask, truth.labels, label), 4))
    return found


def figures(module: nn.Module, most: int = 8) -> list[dict[str, Any]]:
    """What METRICS.json says of held-out cases: Dice case by case, and its mean, per shape.

    Args:
        most: at most so many cases of each shape.
    """
    rows = []
    for count, shape in RECORDED:
        found = evaluate(module, min(count, most), shape)
        mean = {name: round(sum(v) / len(v), 4) for name, v in found.items() if v}
        rows.append({"shape": shape, "mean_dice": mean, "dice": found})
        print(f"held out, {min(count, most)} of {'x'.join(map(str, shape))}: {mean}", flush=True)
    return rows


def record(module: nn.Module, path: Path = METRICS, most: int = 8) -> None:
    """Write the figures to ``path``; what it says of the training stays."""
    held = json.loads(path.read_text()) if path.is_file() else {}
    held |= {"seed": HELD_OUT_SEED, "cases": figures(module, most)}
    path.write_text(json.dumps(held, indent=2) + "\n")


def main() -> None:
    """Print the table, or record the figures."""
    parser = argparse.ArgumentParser(description="Dice of the shipped model on held-out cases.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="checkpoint")
    parser.add_argument("--count", type=int, default=8, help="held-out cases")
    parser.add_argument("--shape", type=int, nargs=3, default=PATCH, metavar=("Z", "Y", "X"))
    parser.add_argument("--record", action="store_true", help=f"write {METRICS.name}")
    options = parser.parse_args()
    module = load(options.weights)
    if options.record:
        record(module, most=options.count)
        return
    depth, height, width = options.shape
    found = evaluate(module, options.count, (depth, height, width))
    print(f"{options.count} held-out cases of {depth}x{height}x{width}   Dice")
    for name, values in found.items():
        print(f"{name:<40} {sum(values) / max(len(values), 1):.4f}")


if __name__ == "__main__":
    main()
