"""Checkpoints of YOLOv8, YOLO11 and YOLOv5u: read by their own description, nothing of them run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from repack.networks.box_heads import Detect
from repack.networks.described import COUNTED, HEADS, Described, Unknown, points_of
from repack.sources import told
from repack.sources.checks import check_settings, check_tensors, take_norms
from repack.sources.errors import UnsupportedLayout, printable
from repack.sources.source import Source, sha256_of
from repack.sources.weights import Weights
from repack.sources.yolov5_layout import canonical

READ = "the kit reads YOLOv8, YOLO11 and YOLOv5u: detect, segment, pose, obb and classify"
EXPORT = "export it, 'yolo export model={} format=onnx', and pack the ONNX file"
MODULE = "ultralytics."
"""How the classes of such a checkpoint's pickle begin."""


def description(weights: Weights) -> Mapping[str, Any] | None:
    """What the network was built from; None for a checkpoint of another kind, YOLOv5's too."""
    if weights.root is None or not weights.root.kind.name.startswith(MODULE):
        return None
    found = weights.root.state.get("yaml")
    return found if isinstance(found, dict) and not found.get("anchors") else None


def load(path: Path, weights: Weights, built_from: Mapping[str, Any]) -> Source:
    """A network of boxes or classes from the tensors of a checkpoint.

    Args:
        built_from: as ``description`` gives it.

    Raises:
        UnsupportedLayout: another network; the line says what it is, and how it can be exported.
    """
    name = _name(built_from, path)
    try:
        module = _build(path, weights, built_from)
    except Unknown as e:
        how = EXPORT.format(printable(path.name, 60))
        raise UnsupportedLayout(path, f"{name} has {printable(e, 100)}; {READ}: {how}") from None
    says = _says(weights, built_from)
    return Source(
        module,
        "ultralytics",
        name,
        says.names,
        path,
        sha256_of(path),
        says.kit_task,
        told=says,
    )


def _name(built_from: Mapping[str, Any], path: Path) -> str:
    given = built_from.get("yaml_file")
    return printable(Path(given).stem, 40) if isinstance(given, str) and given else path.stem


def _build(path: Path, weights: Weights, built_from: Mapping[str, Any]) -> Described:
    tensors = canonical(weights.tensors)
    last = max((int(n.split(".")[1]) for n in tensors if n.startswith("model.")), default=0)
    counted = (tensors.get(f"model.{last}.{name}") for name in COUNTED)
    bias = next((found for found in counted if found is not None), None)
    if bias is None or bias.ndim != 1:
        rows = built_from.get("head")
        kind = rows[-1][2] if isinstance(rows, list) and rows and len(rows[-1]) > 2 else "?"
        raise Unknown(f"a head {kind!r}")
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        module = Described(built_from, len(bias))
    if isinstance(head := module.model[-1], Detect):
        head.strides = _strides(weights)
    own = module.state_dict()
    check_tensors(path, f"its own description, with {len(bias)} classes", own, tensors)
    take_norms(path, weights, module)
    check_settings(path, weights, module, READ)
    module.load_state_dict({n: tensors[n] for n in own}, strict=True)
    module.eval().requires_grad_(False)
    return module


def _strides(weights: Weights) -> tuple[int, ...]:
    """Of the head's maps.

    Raises:
        Unknown: the checkpoint does not say them.
    """
    given = weights.root.state.get("stride") if weights.root is not None else None
    found = given.tolist() if isinstance(given, torch.Tensor) and given.ndim == 1 else []
    if not 1 <= len(found) <= 6 or any(s not in (4, 8, 16, 32, 64, 128) for s in found):
        raise Unknown(f"strides {found}")
    return tuple(int(s) for s in found)


def _says(weights: Weights, built_from: Mapping[str, Any]) -> told.Told:
    state = weights.root.state if weights.root is not None else {}
    arguments = state.get("args")
    imgsz = arguments.get("imgsz") if isinstance(arguments, dict) else None
    if imgsz is None and isinstance(given := weights.around.get("train_args"), dict):
        imgsz = given.get("imgsz")
    task = HEADS[built_from["head"][-1][2]]
    stride = None if task == told.CLASSIFY else max(_strides(weights))
    entries = {"names": state.get("names"), "imgsz": imgsz, "stride": stride}
    found = told.read({k: v for k, v in entries.items() if v is not None})
    return replace(found, task=task, points=points_of(built_from))
