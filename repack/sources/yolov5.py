"""YOLOv5 checkpoints: pickled whole models, state dicts, and the kit's own plain layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from repack.networks.yolov5 import STRIDES, YOLOv5
from repack.sources.checks import check_settings, check_tensors
from repack.sources.errors import UnsupportedLayout, printable
from repack.sources.source import Source, sha256_of
from repack.sources.weights import Weights
from repack.sources.yolov5_layout import READ, canonical, check_strides, infer

ANCHORS = "model.24.anchors"


def load(path: Path, weights: Weights) -> Source:
    """A YOLOv5 detector from the tensors of a checkpoint.

    Args:
        path: the file, for messages and the hash.
        weights: what was found in it.

    Raises:
        UnsupportedLayout: another layout; the message names what was found.
    """
    tensors = canonical(weights.tensors)
    tensors |= _own_anchors(path, weights.around)
    layout = infer(path, tensors)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        module = YOLOv5(layout.size, layout.classes, layout.per_cell)
    check_tensors(
        path, f"{layout.size} with {layout.classes} classes", module.state_dict(), tensors
    )
    check_settings(path, weights, module, READ)
    check_strides(path, weights)
    module.load_state_dict({name: tensors[name] for name in module.state_dict()}, strict=True)
    module.eval().requires_grad_(False)
    labels = _labels(path, weights, layout.classes)
    return Source(module, "yolov5", layout.size, labels, path, sha256_of(path), "detection")


def _own_anchors(path: Path, around: Mapping[str, object]) -> dict[str, Tensor]:
    """The plain layout's ``anchors`` (input pixels) as the network keeps them (grid cells)."""
    anchors = around.get("anchors")
    if around.get("family") != "yolov5" or anchors is None:
        return {}
    if not isinstance(anchors, Tensor) or anchors.ndim != 3 or anchors.shape[0] != len(STRIDES):
        found = list(anchors.shape) if isinstance(anchors, Tensor) else type(anchors).__name__
        raise UnsupportedLayout(path, f"anchors {found}, expected a tensor [3, n, 2] in pixels")
    if anchors.numel() * anchors.element_size() > anchors.untyped_storage().nbytes():
        raise UnsupportedLayout(path, f"anchors claim shape {list(anchors.shape)}")
    return {ANCHORS: anchors.float() / torch.tensor(STRIDES).view(3, 1, 1)}


def _labels(path: Path, weights: Weights, classes: int) -> tuple[str, ...]:
    places = [weights.root.state] if weights.root is not None else []
    names = next((p["names"] for p in (*places, weights.around) if p.get("names")), None)
    if names is None:
        return tuple(f"class {i}" for i in range(classes))
    if isinstance(names, dict):
        names = [names.get(i) for i in range(len(names))]
    if not isinstance(names, list | tuple) or not all(isinstance(n, str | int) for n in names):
        raise UnsupportedLayout(
            path,
            f"class names {printable(names, 60)}, expected {classes} texts",
        )
    if len(names) != classes:
        raise UnsupportedLayout(path, f"{len(names)} class names, its head has {classes} classes")
    return tuple(str(name) for name in names)
