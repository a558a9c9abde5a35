"""Networks of the real Ultralytics package, their exports and its own predictions.

Run by the Python of an environment that has the package (docs/models.md says how to make one)::

    ENV/bin/python tests/parity/make_ultralytics_reference.py --pictures DIR --out DIR NAME ...

``NAME`` is one of the package's yaml files, such as ``yolov8n`` or ``yolo11n-seg``, or a ``.pt``
that the package has trained. Of a yaml file weights are random; batch statistics come from the
pictures, and the class biases are shifted until some boxes are confident, so that there is
something to compare. Pictures whose longer side is ``--imgsz`` are not resized by either side.

    ENV/bin/python tests/parity/make_ultralytics_reference.py --tiny DIR

writes the small files of tests/data: a YOLOv8 and a YOLO11 of few channels, as the package saves
them, and what it answers.

Written for each: ``NAME.pt``, ``NAME.onnx``, ``NAME.torchscript`` and ``NAME.json`` with what
``predict`` answers: per picture rows x1, y1, x2, y2, confidence, class, and what its task has.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import argparse
import lzma
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_AUTOINSTALL", "false")

import cv2
import numpy as np
import plausible
import torch
from ultralytics import RTDETR, YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.nn.tasks import (
    ClassificationModel,
    DetectionModel,
    OBBModel,
    PoseModel,
    SegmentationModel,
    yaml_model_load,
)

TINY = {
    "yolov8n": (0.33, 0.03, 1024),
    "yolov8n-seg": (0.33, 0.03, 1024),
    "yolov8n-pose": (0.33, 0.03, 1024),
    "yolo11n": (0.5, 0.125, 512),
    "yolov8n-cls": (0.33, 0.03, 1024),
    "yolov8n-obb": (0.33, 0.03, 1024),
}
"""Depth, width and most channels; YOLO11's attention has heads of 64 channels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, default=Path())
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--imgsz", type=int, default=256)
    parser.add_argument("--tiny", type=Path)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    if given.tiny:
        for name in given.names or TINY:
            tiny(name, given.tiny)
        return
    given.out.mkdir(parents=True, exist_ok=True)
    pictures = plausible.found(given.pictures)
    for name in given.names:
        make(name, pictures, given.out, given.imgsz)


def make(name: str, pictures: list[Path], out: Path, side: int) -> None:
    torch.manual_seed(0)
    kind = RTDETR if name.startswith("rtdetr") else YOLO
    if name.endswith(".pt"):
        shutil.copyfile(name, out / Path(name).name)
        name = Path(name).stem
    else:
        model = kind(f"{name}.yaml")
        settle(model.model, torch.stack([pixels(p, side) for p in pictures]))
        model.model.args = {"imgsz": side, "task": model.task}
        model.save(out / f"{name}.pt")
    loaded = kind(out / f"{name}.pt")
    plausible.write(out / f"{name}.json", predicted(loaded, pictures, side))
    for flags in ({"format": "onnx", "simplify": False, "opset": 17}, {"format": "torchscript"}):
        made = kind(out / f"{name}.pt").export(imgsz=side, **flags)
        print(name, made)


def tiny(name: str, out: Path) -> None:
    """A network of the package's own description, but of few channels and three classes."""
    torch.manual_seed(1)
    told = yaml_model_load(f"{name}.yaml")
    told |= {"nc": 3, "scales": {"n": TINY[name]}, "scale": "n"}
    kinds = {
        "seg": SegmentationModel,
        "pose": PoseModel,
        "cls": ClassificationModel,
        "obb": OBBModel,
    }
    network = kinds.get(name.rpartition("-")[2], DetectionModel)(told, ch=3, verbose=False)
    given = np.random.default_rng(2).integers(0, 256, (2, 3, 8, 12), np.uint8)
    given = given.repeat(8, 2).repeat(8, 3)
    batch = torch.from_numpy(given).float() / 255
    with torch.no_grad():
        for weights in network.parameters():  # few values, so that the file is small
            if weights.dim() == 4:
                weights.copy_((weights * 16).round() / 16)
    settle(network, batch)
    network.names = dict(enumerate(("circle", "square", "triangle")))
    network.args = {"imgsz": 96, "task": "detect"}
    with torch.no_grad():
        network = network.half().float().eval()
        answer = network(batch)
        while isinstance(answer[0], (tuple, list)):
            answer = answer[0]
        protos = answer[1] if name.endswith("seg") else torch.zeros(1, 1)
        answer = answer[0].numpy()  # probabilities, not logits, of a classifier
        for parameter in network.parameters():
            parameter.requires_grad = False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.save({"model": network.half(), "train_args": {"imgsz": 96}, "ema": None}, path)
        packed = lzma.compress(path.read_bytes(), preset=9)
    (out / f"{name}_tiny.pt.xz").write_bytes(packed)
    np.savez_compressed(
        out / f"{name}_tiny.npz", inputs=given, answer=answer, protos=protos[:, ::8].numpy()
    )
    print(name, len(packed), answer.shape)


def pixels(path: Path, side: int) -> torch.Tensor:
    picture = LetterBox((side, side), auto=False)(image=cv2.imread(str(path)))
    return torch.from_numpy(np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1))) / 255


def settle(network: Any, batch: torch.Tensor) -> None:
    """Batch statistics of the pictures, then class biases."""
    network.eval()
    plausible.statistics(network, lambda: network(batch))
    head = network.model[-1]
    if isinstance(getattr(head, "linear", None), torch.nn.Linear):
        torch.nn.init.normal_(head.linear.weight, 0, 0.3)
    for branch in head.cv4 if type(head).__name__ == "OBB" else ():
        torch.nn.init.normal_(branch[-1].weight, 0, 0.5)
    for name in ("cv3", "one2one_cv3", "dec_score_head"):
        for branch in getattr(head, name, None) or []:
            of_queries = isinstance(branch, torch.nn.Linear)  # [N, queries, classes]
            last = branch if of_queries else branch[-1]
            plausible.confident(last, 2 if of_queries else 1, lambda: network(batch))


def predicted(model: Any, pictures: list[Path], side: int) -> dict[str, Any]:
    found = {}
    for picture in pictures:
        (answer,) = model.predict(
            str(picture), imgsz=side, conf=0.25, iou=0.7, rect=False, verbose=False
        )
        rows = {"boxes": answer.boxes.data.tolist() if answer.boxes is not None else []}
        if answer.masks is not None:
            rows["masks"] = [m.tolist() for m in answer.masks.xy]
        if answer.keypoints is not None:
            rows["points"] = answer.keypoints.data.tolist()
        if answer.probs is not None:
            rows["probabilities"] = answer.probs.data.tolist()
        if answer.obb is not None:  # rows x, y, w, h, angle, confidence, class
            rows["obb"] = answer.obb.data.tolist()
        found[picture.name] = rows
    return found


if __name__ == "__main__":
    main()
