"""YOLOX and torchvision's Faster R-CNN: their makers' networks, exports and predictions.

Run by the Python of an environment that has the package::

    ENV/bin/python tests/parity/make_detector_reference.py KIND --pictures DIR --out DIR

``yolox``: the project's code, on PYTHONPATH; ``torchvision``. Weights are random, class
biases such that there is something to compare. ``compare_detectors.py`` reads what is written:
``NAME.onnx`` and ``NAME.json``. Pictures must fit the network's size, so that neither side
resizes them.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import plausible
import torch
from torch import Tensor

CONFIDENCE = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=256)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    KINDS[given.kind](plausible.found(given.pictures), given.out, given.imgsz)


def yolox(pictures: list[Path], out: Path, side: int) -> None:
    """YOLOX-s, decoded in the graph and, as its export script has it, not."""
    size = (side, side)
    prepared = import_module("yolox.data.data_augment").ValTransform()
    found = import_module("yolox.utils").postprocess
    network = import_module("yolox.exp").get_exp(exp_name="yolox-s").get_model().eval()
    read = [torch.from_numpy(prepared(cv2.imread(str(p)), None, size)[0]) for p in pictures]
    batch = torch.stack(read)
    plausible.statistics(network, lambda: network(batch))
    for objectness, scores in zip(network.head.obj_preds, network.head.cls_preds, strict=True):
        torch.nn.init.normal_(objectness.weight, 0, 0.05)
        torch.nn.init.constant_(objectness.bias, 4)
        plausible.confident(scores, 1, lambda: network(batch), 0.05)
    answers = {}
    for picture, given in zip(pictures, read, strict=True):
        with torch.no_grad():
            (rows,) = found(network(given[None]), 80, CONFIDENCE, 0.45)
        rows = torch.zeros(0, 7) if rows is None else rows
        boxes = torch.cat((rows[:, :4], rows[:, 4:5] * rows[:, 5:6], rows[:, 6:]), 1)
        answers[picture.name] = {"boxes": boxes.tolist()}
    for name, decoded in (("yolox-s", False), ("yolox-s-decoded", True)):
        network.head.decode_in_inference = decoded
        export(network, batch[:1], out / f"{name}.onnx", ["output"])
        plausible.write(out / f"{name}.json", answers)


def torchvision(pictures: list[Path], out: Path, side: int) -> None:
    """Faster R-CNN on a MobileNet, asked about pictures on grey as the kit fits them in."""
    detection = import_module("torchvision.models.detection")
    network = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=8, min_size=side, max_size=side,
        box_score_thresh=CONFIDENCE, box_detections_per_img=300,
    ).eval()  # fmt: skip
    read = [centred(p, side) for p in pictures]
    given = [picture for picture, _ in read]
    plausible.statistics(network.backbone, lambda: network(given))
    predictor = network.roi_heads.box_predictor
    for layer in (network.rpn.head.bbox_pred, predictor.bbox_pred):
        torch.nn.init.normal_(layer.weight, 0, 0.02)
    torch.nn.init.normal_(predictor.cls_score.weight, 0, 0.15)
    answers = {}
    for path, (picture, (left, top)) in zip(pictures, read, strict=True):
        with torch.no_grad():
            (found,) = network([picture])
        boxes = found["boxes"] - torch.tensor([left, top] * 2)
        rest = found["scores"][:, None], found["labels"][:, None].float()
        answers[path.name] = {"boxes": torch.cat((boxes, *rest), 1).tolist()}
    export(network, torch.stack(given[:1]), out / "fasterrcnn.onnx", ["boxes", "labels", "scores"])
    plausible.write(out / "fasterrcnn.json", answers)


def centred(path: Path, side: int) -> tuple[Tensor, tuple[int, int]]:
    """A picture ``[3, side, side]`` in 0..1, RGB, in the middle of grey, and where it begins."""
    read = np.asarray(cv2.imread(str(path)))[..., ::-1]
    high, wide = read.shape[:2]
    left, top = (side - wide) // 2, (side - high) // 2
    whole = np.full((side, side, 3), 114, np.uint8)
    whole[top : top + high, left : left + wide] = read
    return torch.from_numpy(whole.transpose(2, 0, 1).copy()) / 255, (left, top)


def export(network: Any, given: Any, path: Path, names: list[str]) -> None:
    torch.onnx.export(
        network, (given,), str(path), opset_version=16, input_names=["images"], output_names=names
    )


KINDS = {"yolox": yolox, "torchvision": torchvision}


if __name__ == "__main__":
    main()
