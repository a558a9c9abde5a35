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
            which is the model itself.
        family: "yolov5", "torchscript", "onnx" or "state_dict".
        network: "yolov5n" to "yolov5x"; otherwise the class or graph name.
        labels: one name per class of a detector, else empty.
        path: the file.
        sha256: of the file, 64 hexadecimal digits.
        task: "detection" (YOLOv5) or "tensors".
    """

    module: nn.Module | None
    family: str
    network: str
    labels: tuple[str, ...]
    path: Path
    sha256: str
    task: str


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
