"""A model as the GPU's runtimes take it: the module to build from, and how its tensors lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from handlers.artefact import DeviceOptions
from repack.model import RAW, Arrays, Subject
from repack.networks.yolov5 import Detect, YOLOv5
from repack.onnx.symbolic import Functions

Shapes = Mapping[str, tuple[int | str, ...]]


@dataclass(frozen=True)
class DeviceForm:
    """What is built for a GPU.

    Attributes:
        module: float32, on the CPU; None where the source is an ONNX file.
        onnx: that file, else None.
        shapes: per input its shape as the module takes it; a word is an axis of any length.
        dtypes: per input NumPy's name of its element type.
        outputs: their names.
        pixels, channels_last: as in ``handlers.artefact.DeviceOptions``.
        symbolic: the user's ONNX forms of operators (``repack.onnx.symbolic``).
    """

    module: nn.Module | None
    onnx: Path | None
    shapes: Shapes
    dtypes: Mapping[str, str]
    outputs: tuple[str, ...]
    pixels: tuple[str, ...] = ()
    channels_last: bool = False
    symbolic: Functions = field(default_factory=dict)

    @property
    def options(self) -> DeviceOptions:
        """What a runtime of this form needs, but for the batch sizes."""
        return DeviceOptions(
            outputs=self.outputs, pixels=self.pixels, channels_last=self.channels_last
        )

    def feed(self, given: Arrays) -> Arrays:
        """Inputs as the passport has them -> as the module takes them."""
        return {name: self._own(name, value) for name, value in given.items()}

    def _own(self, name: str, value: Any) -> Any:
        if name in self.pixels:
            return np.ascontiguousarray(value.transpose(0, 3, 1, 2)).astype(np.float32) / 255
        return value


class Maps(nn.Module):
    """A YOLOv5 detector that ends in its head's convolutions, without moving an axis.

    Input: ``[N, 3, H, W]``, RGB, 0..1. Outputs per scale: ``[N, anchors * (5 + classes), H, W]``.
    """

    def __init__(self, detector: YOLOv5):
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        head = cast(Detect, self.detector.model[24])
        maps = self.detector.maps(x)
        return tuple(conv(m) for conv, m in zip(head.m, maps, strict=True))


def device_form(subject: Subject, graph: Path | None) -> DeviceForm:
    """The form of a subject that the GPU's converters start from.

    Args:
        graph: the ONNX file of a subject without a module.
    """
    detector = subject.source.module
    if subject.raw is None or not isinstance(detector, YOLOv5):
        return DeviceForm(
            subject.module,
            graph,
            {s.name: s.shape for s in subject.inputs},
            {s.name: s.dtype for s in subject.inputs},
            tuple(s.name for s in subject.outputs),
            symbolic=subject.symbolic,
        )
    spec = subject.inputs[0]
    batch, height, width, _ = spec.shape
    shapes: Shapes = {spec.name: (batch, 3, height, width)}
    module = Maps(detector).eval()
    return DeviceForm(module, None, shapes, {spec.name: "float32"}, RAW, (spec.name,), True)


def sized(shapes: Shapes, batch: int) -> dict[str, tuple[int, ...]]:
    """The shapes with the batch axis set.

    Raises:
        ValueError: another axis is of any length.
    """
    found = {}
    for name, shape in shapes.items():
        if any(isinstance(n, str) for n in shape[1:]):
            raise ValueError(name)
        first = batch if isinstance(shape[0], str) else shape[0]
        found[name] = (first, *(int(n) for n in shape[1:]))
    return found
