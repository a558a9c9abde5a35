"""Checkpoints of YOLOv8, YOLO11 and YOLOv5u: read by their own description, nothing of them run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from repack.networks.described import HEADS, Unknown, points_of
from repack.sources import described, told
from repack.sources.errors import UnsupportedLayout, printable
from repack.sources.source import Source, sha256_of
from repack.sources.weights import Weights

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
        module = described.build(path, weights, built_from, READ)
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


def _says(weights: Weights, built_from: Mapping[str, Any]) -> told.Told:
    state = weights.root.state if weights.root is not None else {}
    arguments = state.get("args")
    imgsz = arguments.get("imgsz") if isinstance(arguments, dict) else None
    if imgsz is None and isinstance(given := weights.around.get("train_args"), dict):
        imgsz = given.get("imgsz")
    task = HEADS[built_from["head"][-1][2]]
    stride = None if task == told.CLASSIFY else max(described.strides(weights))
    entries = {"names": state.get("names"), "imgsz": imgsz, "stride": stride}
    found = told.read({k: v for k, v in entries.items() if v is not None})
    return replace(found, task=task, points=points_of(built_from))
