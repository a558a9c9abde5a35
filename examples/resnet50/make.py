"""Writes a ResNet-50 with random weights as an ONNX file, to try a classifier with.

    python examples/resnet50/make.py resnet50.onnx --batch 64
    python repack/model_repack.py --weights resnet50.onnx --task classification --name resnet50

TensorRT 8.6 reads operator sets up to 17, which only PyTorch's older exporter writes.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.resnet50.network import DEPTHS, ResNet, resnet

INPUT, OUTPUT = "images", "logits"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("target", type=Path, help="the ONNX file")
    add("--batch", type=int, default=0, help="fixed batch; 0 is any batch")
    add("--depth", type=int, default=50, choices=sorted(DEPTHS))
    add("--classes", type=int, default=1000)
    add("--width", type=int, default=64, help="channels of the first stage")
    add("--side", type=int, default=224, help="of the pictures, pixels")
    add("--opset", type=int, default=17)
    add("--exporter", default="torchscript", choices=["torchscript", "dynamo"])
    add("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.exporter == "dynamo" and given.opset < 18:
        parser.error("--exporter dynamo writes operator sets from 18")
    module = resnet(given.depth, given.classes, given.width, given.side, given.seed)
    write(module, given.target, given.side, given.batch, given.opset, given.exporter == "dynamo")
    weights = sum(p.numel() for p in module.parameters()) / 1e6
    print(f"{given.target}: {weights:.1f} million weights, batch {given.batch or 'free'}")
    return 0


def write(
    module: ResNet, path: Path, side: int, batch: int = 0, opset: int = 17, dynamo: bool = False
) -> None:
    """Exports the network: ``images`` ``[batch, 3, side, side]`` to ``logits``.

    Args:
        batch: 0 leaves the axis free.
        dynamo: PyTorch's newer exporter (operator sets from 18) instead of the older one.
    """
    example = torch.zeros(batch or 2, 3, side, side)
    free = "batch" if batch == 0 else None
    axes: dict[str, object] = {}
    if dynamo:
        axes["dynamic_shapes"] = ({0: torch.export.Dim("batch")} if free else {},)
        axes |= {"external_data": False, "verbose": False}
    elif free:
        axes["dynamic_axes"] = {INPUT: {0: free}, OUTPUT: {0: free}}
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example,),
            str(path),
            dynamo=dynamo,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            **axes,  # type: ignore[arg-type]
        )


if __name__ == "__main__":
    sys.exit(main())
