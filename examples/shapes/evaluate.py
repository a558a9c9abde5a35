"""mAP of the shipped model on held-out scenes.

    python examples/shapes/evaluate.py --count 500
    python examples/shapes/evaluate.py --record          # writes METRICS.json

Plain PyTorch in float32, one scene at a time, and pycocotools' figures: no runtime and no handler
is in the way, so this is what the checkpoint itself can do.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from examples.shapes.scenes import CLASSES, HELD_OUT_SEED, scene
from handlers.boxes import nms
from handlers.heads.yolov5 import YOLOv5
from repack import sources
from repack.options import SourceOptions
from repack.tasks.detection.metrics import MeanAveragePrecision, mean_average_precision

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "yolov5n_shapes.pt"
METRICS = HERE / "METRICS.json"
RECORDED = (150, 1000)
"""Counts of scenes whose figures METRICS.json holds."""
CONFIDENCE, IOU, MOST = 0.001, 0.6, 100
"""As detectors are scored: nearly every box counts, ranked by its confidence."""


def load(path: Path = WEIGHTS) -> nn.Module:
    """The checkpoint's module, in evaluation mode, float32.

    Raises:
        SourceError: the file is no checkpoint that the kit reads.
        ValueError: it holds something other than a module.
    """
    module = sources.load(SourceOptions(path)).module
    if module is None:
        raise ValueError(f"{path.name} holds no PyTorch module: give a checkpoint")
    return module


@torch.inference_mode()
def detect(module: nn.Module, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Boxes of one ``uint8 [H, W, 3]`` RGB picture, H and W multiples of 32.

    Returns:
        ``float32 [M, 6]``: x1, y1, x2, y2 in pixels, score, class; best first, at most ``MOST``.
    """
    x = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)[None])).float() / 255
    return nms(module(x)[0].numpy(), YOLOv5(classes=len(CLASSES)), CONFIDENCE, IOU, MOST)


def evaluate(module: nn.Module, count: int) -> MeanAveragePrecision:
    """mAP over the first ``count`` held-out scenes, 640 x 640; about 20 scenes/s on two cores."""
    found, truth = [], []
    for index in range(count):
        picture, boxes, kinds = scene(HELD_OUT_SEED, index)
        found.append(detect(module, picture))
        truth.append(np.concatenate((boxes, kinds[:, None].astype(np.float32)), 1))
    return mean_average_precision(found, truth)


def record(module: nn.Module, path: Path = METRICS) -> dict[str, dict[str, float]]:
    """Write the figures over each of ``RECORDED`` scenes to ``path``, and return them."""
    figures = {}
    for count in RECORDED:
        result = evaluate(module, count)
        figures[str(count)] = {
            "map50": round(result.map50, 4),
            "map50_95": round(result.map50_95, 4),
        }
    path.write_text(json.dumps({"seed": HELD_OUT_SEED, "scenes": figures}, indent=2) + "\n")
    return figures


def main() -> None:
    """Print the table, or record the figures."""
    parser = argparse.ArgumentParser(description="mAP of the shipped model on held-out scenes.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="checkpoint")
    parser.add_argument("--count", type=int, default=500, help="held-out scenes")
    parser.add_argument("--record", action="store_true", help=f"write {METRICS.name}")
    options = parser.parse_args()
    module = load(options.weights)
    if options.record:
        print(json.dumps(record(module), indent=2))
        return
    result = evaluate(module, options.count)
    print(f"{options.count} held-out scenes   mAP50  mAP50-95")
    for kind, (ap50, ap50_95) in result.classes.items():
        print(f"{CLASSES[kind]:<22} {ap50:.4f}  {ap50_95:.4f}")
    print(f"{'all':<22} {result.map50:.4f}  {result.map50_95:.4f}")


if __name__ == "__main__":
    main()
