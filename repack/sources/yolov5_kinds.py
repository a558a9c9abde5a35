"""YOLOv5 checkpoints beside the detectors of releases 6 and 7: P6 models, masks, classes, release 5
and older, other activations, faces with landmarks. Read by their own description, never run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from repack.networks.class_heads import Classify
from repack.networks.described import HEADS, Unknown
from repack.networks.yolov5 import SIZES
from repack.networks.yolov5_face import POINTS, Landmarks
from repack.options import IMAGENET_MEAN, IMAGENET_STD
from repack.sources import described, told
from repack.sources.errors import UnsupportedLayout, printable
from repack.sources.source import Source, sha256_of
from repack.sources.weights import Weights
from repack.sources.yolov5_layout import canonical, foreign_layout, fused, looks_like_yolo, size_of

MODULES = "models.yolo.", "yolov5.models.yolo."
"""How the classes of such a checkpoint's pickle begin."""

READ = "the kit reads YOLOv5 of releases 3 to 7 and its P6, -seg and -cls models, and YOLOv5-face"
BACKBONE = [
    [-1, 1, "Conv", [64, 6, 2, 2]],
    [-1, 1, "Conv", [128, 3, 2]],
    [-1, 3, "C3", [128]],
    [-1, 1, "Conv", [256, 3, 2]],
    [-1, 6, "C3", [256]],
    [-1, 1, "Conv", [512, 3, 2]],
    [-1, 9, "C3", [512]],
    [-1, 1, "Conv", [1024, 3, 2]],
    [-1, 3, "C3", [1024]],
]
"""Of the classifiers, which carry no description: that of the detectors of releases 6 and 7."""


def description(path: Path, weights: Weights) -> Mapping[str, Any] | None:
    """What the network was built from; None for a checkpoint that is none of these."""
    root = weights.root
    if root is None or not root.kind.name.startswith(MODULES):
        return None
    tensors = canonical(weights.tensors)
    if fused(tensors):
        return None
    if root.kind.short == "ClassificationModel":
        depth, width = SIZES[size_of(path, tensors)]
        multiples = {"depth_multiple": depth, "width_multiple": width}
        return {**multiples, "backbone": BACKBONE, "head": [[-1, 1, "Classify", ["nc"]]]}
    found = root.state.get("yaml")
    if not isinstance(found, dict) or not found.get("anchors"):
        return None
    plain = looks_like_yolo(tensors) and not foreign_layout(tensors)
    return None if plain and not found.get("activation") else found


def load(path: Path, weights: Weights, built_from: Mapping[str, Any]) -> Source:
    """A network of boxes, masks or classes from the tensors of a checkpoint.

    Args:
        built_from: as ``description`` gives it.

    Raises:
        UnsupportedLayout: another network; the line says what it is.
    """
    try:
        module = described.build(path, weights, built_from, READ)
        task = HEADS[built_from["head"][-1][2]]
        stride = None if task == told.CLASSIFY else max(described.strides(weights))
    except Unknown as e:
        raise UnsupportedLayout(path, f"a YOLOv5 with {printable(e, 100)}; {READ}") from None
    state = weights.root.state if weights.root is not None else {}
    entries = {"names": state.get("names"), "stride": stride}
    says = told.read({k: v for k, v in entries.items() if v is not None})
    says = replace(says, task=task)
    if isinstance(head := module.model[-1], Classify):
        head.softmax = False
        says = replace(says, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    if isinstance(head, Landmarks):
        says = replace(says, task=told.POSE, points=(POINTS, 2))
    digest, kind = sha256_of(path), says.kit_task
    return Source(module, "yolov5", "yolov5", says.names, path, digest, kind, told=says)
