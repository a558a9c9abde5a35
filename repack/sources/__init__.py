"""Checkpoints: from a file to a module, one Python module per family, no pickle ever run."""

from __future__ import annotations

from pathlib import Path

from repack.sources import savedmodel, state_dict, yolov5
from repack.sources.checkpoint import read_checkpoint
from repack.sources.content import Kind, sniff
from repack.sources.errors import (
    NetworkMismatch,
    SourceError,
    UnreadableFile,
    UnsafePickle,
    UnsupportedLayout,
    printable,
)
from repack.sources.source import Source
from repack.sources.weights import Weights, find_weights
from repack.sources.yolov5_layout import READ, canonical, foreign_layout, looks_like_yolo

__all__ = [
    "NetworkMismatch",
    "Source",
    "SourceError",
    "UnreadableFile",
    "UnsafePickle",
    "UnsupportedLayout",
    "load",
]


def load(path: Path, network: str | None = None, tensorflow_python: Path | None = None) -> Source:
    """Whatever ``path`` holds, told by its content.

    Args:
        path: a YOLOv5 checkpoint, a TorchScript file, an ONNX file, a TensorFlow SavedModel's
            folder or, with ``network``, a state dict.
        network: "module:Class" of the state dict's network; only for checkpoints.
        tensorflow_python: the Python that has TensorFlow; only for SavedModels.

    Raises:
        SourceError: one line that starts with the file's name and says what was found.
    """
    if savedmodel.holds(path):
        if network is not None:
            raise NetworkMismatch(path, "a SavedModel carries its own network: no --network")
        return savedmodel.load(path, tensorflow_python)
    kind = sniff(path)
    if kind is Kind.CHECKPOINT:
        weights = find_weights(path, read_checkpoint(path))
        if network is not None:
            return state_dict.load(path, weights, network)
        _check_yolo(path, weights)
        return yolov5.load(path, weights)
    if network is not None:
        raise NetworkMismatch(
            path, f"a {kind.value} file, which carries its own network: leave --network out"
        )
    if kind is Kind.TORCHSCRIPT:
        from repack.sources import torchscript

        return torchscript.load(path)
    from repack.sources import onnx

    return onnx.load(path)


def _check_yolo(path: Path, weights: Weights) -> None:
    tensors = canonical(weights.tensors)
    if foreign_layout(tensors) is not None or looks_like_yolo(tensors):
        return  # read, or refused with its layout named, by the family's own module
    what = f"a {weights.root.kind.name} of" if weights.root else "a state dict of"
    first = next(iter(tensors.items()), None)
    example = f", first {printable(first[0], 60)!r} {list(first[1].shape)}" if first else ""
    hint = "name its class with --network module:Class" if tensors else "save its state_dict()"
    raise UnsupportedLayout(path, f"{what} {len(tensors)} tensors{example}: {hint} ({READ})")
