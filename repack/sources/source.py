"""What a loaded checkpoint is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from handlers.artefact import TensorRTOptions
from handlers.passport import TensorSpec
from repack.sources.told import Told


@dataclass(frozen=True)
class EngineFile:
    """What a TensorRT engine says about itself.

    Attributes:
        inputs, outputs: 16-bit floats as float32, which the runtime converts.
        options: of the artefact.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    options: TensorRTOptions


CALLED = {
    "yolov5": "a YOLOv5 checkpoint",
    "ultralytics": "a YOLO checkpoint",
    "nnunet": "an nnU-Net folder",
    "monai": "a MONAI bundle",
    "torchscript": "a TorchScript file",
    "onnx": "an ONNX file",
    "state_dict": "a state dict",
    "savedmodel": "a SavedModel",
    "engine": "a TensorRT engine",
}


@dataclass(frozen=True)
class Source:
    """A checkpoint, ready to be converted.

    Attributes:
        module: in evaluation mode, float32, on the CPU, without gradients; None for an ONNX file,
            which is the model itself, and for a SavedModel.
        family: a key of ``CALLED``.
        network: "yolov5n" to "yolov5x"; otherwise the class or graph name.
        labels: one name per class of a detector or per label of a mask, else empty.
        path: the file, or the folder.
        sha256: of the file, 64 hexadecimal digits; of a folder, see ``sha256_of_files``.
        task: what the family or the file says, a key of ``repack.tasks.TASKS``; else "tensors".
        made_onnx: the ONNX file that was made of a checkpoint of another framework, in a folder
            that goes with the process.
        settings: of a segmentation net, how volumes are prepared and masks are made
            (``repack.tasks.segmentation.model``); else empty.
        engine: of an engine, what it says about itself.
        told: what the file says of itself beside its network.
    """

    module: nn.Module | None
    family: str
    network: str
    labels: tuple[str, ...]
    path: Path
    sha256: str
    task: str
    made_onnx: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    engine: EngineFile | None = None
    told: Told = field(default_factory=Told)

    @property
    def called(self) -> str:
        """The family in a sentence: "an ONNX file"."""
        return CALLED.get(self.family, f"a checkpoint of {self.family}")

    @property
    def graph(self) -> Path:
        """The ONNX file of a source without a module."""
        return self.made_onnx or self.path


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_files(folder: Path, files: Sequence[Path]) -> str:
    """One SHA-256 for several files of a folder: over their names and their own SHA-256, sorted."""
    lines = sorted(f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
