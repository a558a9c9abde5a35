"""What a loaded checkpoint is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import nn


@dataclass(frozen=True)
class Source:
    """A checkpoint, ready to be converted.

    Attributes:
        module: in evaluation mode, float32, on the CPU, without gradients; None for an ONNX file,
            which is the model itself, and for a SavedModel.
        family: "yolov5", "torchscript", "onnx", "state_dict" or "savedmodel".
        network: "yolov5n" to "yolov5x"; otherwise the class or graph name.
        labels: one name per class of a detector, else empty.
        path: the file, or a SavedModel's folder.
        sha256: of the file, 64 hexadecimal digits.
        task: "detection" (YOLOv5) or "tensors".
        made_onnx: the ONNX file that was made of a checkpoint of another framework, in a folder
            that goes with the process.
    """

    module: nn.Module | None
    family: str
    network: str
    labels: tuple[str, ...]
    path: Path
    sha256: str
    task: str
    made_onnx: Path | None = None

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
