"""Checkpoints: from a file to a module, one Python module per family, no pickle ever run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from handlers.errors import KitError
from repack.options import SourceOptions
from repack.sources import (
    engine,
    monai,
    nnunet,
    nnunet_places,
    savedmodel,
    state_dict,
    ultralytics,
    volumes,
    yolov5,
    yolov5_kinds,
)
from repack.sources.bundle import is_bundle
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


def load(options: SourceOptions) -> Source:
    """Whatever ``options.weights`` holds, told by its content.

    That is a YOLOv5 checkpoint, a TorchScript or ONNX file, a TensorRT engine or, with ``network``,
    a state dict; a TensorFlow SavedModel's folder; a results folder of nnU-Net, or what stands for
    one; a MONAI bundle, as a folder or a zip.

    Raises:
        SourceError: one line that starts with the file's name and says what was found.
        KitError: an engine that does not run here.
    """
    path = options.weights
    plain: dict[str, object] = {"--network": options.network, "--volumes": options.volumes}
    folds: dict[str, object] = {"--folds": options.folds, "--mirror": options.mirror}
    if engine.holds(path):
        _leave_out(path, "a TensorRT engine", plain if options.original is None else folds)
        return engine.load(path)
    if options.original is not None:
        raise KitError("--original is for an engine of --weights: a checkpoint is its own original")
    alone = options.network is not None and path.is_file()  # a state dict, wherever it lies
    if not alone and (found := nnunet_places.found(path)) is not None:
        folder, fold = found
        _leave_out(path, "an nnU-Net results folder", plain)
        if fold is not None:
            _leave_out(path, "one fold", {"--folds": options.folds})
        return nnunet.load(folder, options.folds if fold is None else [fold], options.mirror)
    if is_bundle(path):
        _leave_out(path, "a MONAI bundle", plain | folds)
        return monai.load(path)
    _leave_out(path, "no nnU-Net results folder", folds)
    source = _load_file(path, options.network, options.tensorflow_python)
    return source if options.volumes is None else volumes.apply(source, options.volumes)


def _leave_out(path: Path, what: str, flags: Mapping[str, object]) -> None:
    """Refuses flags that mean nothing for what ``path`` holds."""
    given = [flag for flag, value in flags.items() if value]
    if given:
        raise NetworkMismatch(path, f"{what}: leave {given[0]} out")


def _load_file(path: Path, network: str | None, tensorflow_python: Path | None) -> Source:
    """One model in one file, or a SavedModel's folder."""
    if savedmodel.holds(path):
        if network is not None:
            raise NetworkMismatch(path, "a SavedModel carries its own network: no --network")
        return savedmodel.load(path, tensorflow_python)
    kind = sniff(path)
    if kind is Kind.CHECKPOINT:
        return _load_checkpoint(path, network)
    if network is not None:
        raise NetworkMismatch(
            path, f"a {kind.value} file, which carries its own network: leave --network out"
        )
    if kind is Kind.TORCHSCRIPT:
        from repack.sources import torchscript

        return torchscript.load(path)
    from repack.sources import onnx

    return onnx.load(path)


def _load_checkpoint(path: Path, network: str | None) -> Source:
    """What a pickle or a file of tensors holds."""
    weights = find_weights(path, read_checkpoint(path))
    if network is not None:
        return state_dict.load(path, weights, network)
    nnunet_places.refuse_alone(path, weights.around.keys())
    if (built_from := ultralytics.description(weights)) is not None:
        return ultralytics.load(path, weights, built_from)
    if (built_from := yolov5_kinds.description(path, weights)) is not None:
        return yolov5_kinds.load(path, weights, built_from)
    _check_yolo(path, weights)
    return yolov5.load(path, weights)


def _check_yolo(path: Path, weights: Weights) -> None:
    tensors = canonical(weights.tensors)
    if foreign_layout(tensors) is not None or looks_like_yolo(tensors):
        return  # read, or refused with its layout named, by the family's own module
    what = f"a {weights.root.kind.name} of" if weights.root else "a state dict of"
    first = next(iter(tensors.items()), None)
    example = f", first {printable(first[0], 60)!r} {list(first[1].shape)}" if first else ""
    hint = "name its class with --network module:Class" if tensors else "save its state_dict()"
    raise UnsupportedLayout(path, f"{what} {len(tensors)} tensors{example}: {hint} ({READ})")
