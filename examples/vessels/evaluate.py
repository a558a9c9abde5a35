"""Dice of the shipped model on held-out cases.

    python examples/vessels/evaluate.py --count 8             # of one window each
    python examples/vessels/evaluate.py --count 2 --shape 128 256 256

Plain PyTorch in float32, half-overlapping windows with Gaussian weights: no runtime and no handler
is in the way, so this is what the checkpoint itself can do.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

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


def load(path: Path = WEIGHTS) -> Net:
    """The checkpoint's network, in evaluation mode, float32, on the CPU."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    module = Net(stored["channels"], len(stored["labels"]))
    module.load_state_dict({name: value.float() for name, value in stored["state_dict"].items()})
    return module.eval().requires_grad_(False)


def evaluate(module: nn.Module, indices: range, shape: Shape = PATCH) -> dict[str, float]:
    """Mean Dice per label (background left out) over held-out cases of one shape.

    Args:
        module: on any device; the window is ``PATCH``.
        indices: which cases of the held-out series.
        shape: of the cases, voxels, z y x.
    """
    total = dict.fromkeys(LABELS[1:], 0.0)
    for index in indices:
        truth = case(HELD_OUT_SEED, index, shape)
        found = segment(module, truth.scan)
        for label, name in enumerate(LABELS[1:], 1):
            total[name] += dice(found, truth.labels, label) / len(indices)
    return {name: round(value, 4) for name, value in total.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Dice of the shipped model on held-out cases.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="checkpoint")
    parser.add_argument("--count", type=int, default=8, help="held-out cases")
    parser.add_argument("--shape", type=int, nargs=3, default=PATCH, metavar=("Z", "Y", "X"))
    options = parser.parse_args()
    depth, height, width = options.shape
    found = evaluate(load(options.weights), range(options.count), (depth, height, width))
    print(f"{options.count} held-out cases of {depth}x{height}x{width}   Dice")
    for name, value in found.items():
        print(f"{name:<40} {value:.4f}")


if __name__ == "__main__":
    main()
