"""What is converted: a model with named inputs and outputs, and the original's own answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handlers.errors import KitError
from handlers.passport import TensorSpec
from repack.networks.yolov5 import STRIDES, Detect, YOLOv5
from repack.sources import Source
from repack.tasks.detection.grids import Grid, grids

Arrays = dict[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int | str, ...]]

HANDLERS = {
    "classification": "handlers.classification:ClassificationHandler",
    "detection": "handlers.detection:DetectionHandler",
    "segmentation": "handlers.segmentation:SegmentationHandler",
    "tensors": "handlers.tensors:TensorHandler",
}


@dataclass(frozen=True)
class Subject:
    """One model on its way into an archive.

    Attributes:
        source: where it came from.
        inputs: what the converted model takes.
        outputs: what it gives.
        module: what is traced; None where the source is an ONNX file.
        original: the unconverted model's answer to inputs as in ``inputs``; the gate's reference.
            It may give more than ``outputs``: whatever a converted form may be compared in.
        settings: what the handler needs to know, as written into the passport.
        symbolic: the user's ONNX forms of operators, as ``repack.onnx.symbolic.load`` gives them.
        write_onnx: for an ONNX source whose graph is changed first: writes the graph that takes
            ``inputs``; None where it is converted as it is.
        raw: for a detector, the module that ends before the boxes are decoded (its outputs are
            ``RAW``), and the grids to decode them.
    """

    source: Source
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    module: nn.Module | None
    original: Callable[[Arrays], Arrays]
    settings: dict[str, Any] = field(default_factory=dict)
    raw: tuple[nn.Module, list[Grid]] | None = None
    symbolic: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    write_onnx: Callable[[Path], None] | None = None

    @property
    def task(self) -> str:
        return self.source.task

    def random_inputs(self, seed: int, batch: int = 1) -> Arrays:
        """Values spread over each input's range (or standard normal), the same for one seed.

        A segmentation net gets windows with shapes in them.
        """
        rng = np.random.default_rng(seed)
        if self.task == "segmentation":
            from repack.tasks.segmentation.model import random_windows

            (spec,) = self.inputs
            return {spec.name: random_windows(rng, [batch, *map(int, spec.shape[1:])])}
        return {spec.name: random_array(spec, rng, batch) for spec in self.inputs}


MAX_SIDE = 4096
"""Largest side of a detector's input, pixels: beyond it one picture takes gigabytes."""

RAW = ("raw_8", "raw_16", "raw_32")
"""A YOLOv5 detector's raw maps, by stride."""


class PixelDetector(nn.Module):
    """A detector that takes pictures as they are decoded.

    Input: ``[N, H, W, 3]`` uint8, RGB. Output: ``[N, boxes, 5 + classes]`` as the detector's own.
    A byte per value crosses into the runtime instead of four, and scaling runs inside the graph.
    """

    def __init__(self, detector: YOLOv5):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.detector(_scaled(images))
        return result


class RawPixelDetector(nn.Module):
    """The same, but it ends before the boxes are decoded: three maps, as ``Detect.raw``."""

    def __init__(self, detector: YOLOv5):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.detector.raw(_scaled(images)))


def _scaled(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).to(torch.float32) / 255


def detector(source: Source, imgsz: int, settings: Mapping[str, Any]) -> Subject:
    """A detector on square pictures.

    Args:
        imgsz: side of the input in pixels, a multiple of 32.

    Raises:
        KitError: a size that is no multiple of 32, or too large.
    """
    if not 0 < imgsz <= MAX_SIDE or imgsz % 32:
        raise KitError(f"--imgsz {imgsz}: expected a multiple of 32 up to {MAX_SIDE}, such as 640")
    if not isinstance(source.module, YOLOv5):
        raise KitError(f"{source.path}: a {source.family} file holds no YOLOv5 detector")
    module = PixelDetector(source.module).eval()
    raw = RawPixelDetector(source.module).eval()
    head = cast(Detect, source.module.model[24])
    where = grids(head, imgsz)
    spec = TensorSpec("images", "uint8", ("batch", imgsz, imgsz, 3), (0, 255), "NHWC")
    count = sum(math.prod(grid.shape[:3]) for grid in where)
    boxes = TensorSpec("boxes", "float32", ("batch", count, 5 + source.module.classes))
    raws = tuple(TensorSpec(name, "float32", ("batch", "any", "any", "any", "any")) for name in RAW)

    def both(pixels: Tensor) -> tuple[Tensor, ...]:
        maps = raw(pixels)
        return torch.cat([head.decode(m, i) for i, m in enumerate(maps)], 1), *maps

    original = _torch_original(both, (spec,), (boxes, *raws))
    pixels = (head.anchors * torch.tensor(STRIDES).view(3, 1, 1)).tolist()
    ends = {"name": "yolov5", "anchors": pixels, "strides": list(STRIDES)}
    settings = {**settings, "head": {**ends, "classes": source.module.classes}}
    return Subject(source, (spec,), (boxes,), module, original, settings, (raw, where))


Limits = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]
"""Per input the least, the usual and the largest shape of an engine's profile."""


def within(subject: Subject, profile: Limits) -> Subject:
    """The subject whose random inputs fit a profile; for drawing inputs only.

    Args:
        profile: by input name, or by "" where there is one input; empty leaves the subject as it
            is.
    """
    inputs = []
    for spec in subject.inputs:
        if not profile:
            return subject
        limits = profile.get(spec.name) or profile.get("")
        if limits is None or len(limits[1]) != len(spec.shape):
            return subject  # refused, with its name, where the engine is built
        least, usual, most = limits
        axes = [n if isinstance(n, int) else usual[i] for i, n in enumerate(spec.shape)]
        if isinstance(spec.shape[0], str) and least[0] == 1 and most[0] > 1:
            inputs.append(replace(spec, shape=(spec.shape[0], *axes[1:])))
        else:
            inputs.append(replace(spec, shape=tuple(axes)))
    return replace(subject, inputs=tuple(inputs))


def tensors(source: Source, shapes: Shapes) -> Subject:
    """Any other model: raw tensors in, raw tensors out.

    Args:
        shapes: shape per input name, as given by the user; TorchScript files and state dicts do not
            carry theirs. A word instead of a number is an axis of any length.

    Raises:
        KitError: shapes are missing, or the model does not run on them.
    """
    if source.module is None:
        return _onnx_subject(source, shapes)
    if not shapes:
        raise KitError(
            f"{source.path}: a {source.family} file does not carry its input's shape: "
            "add --input-shape 1x3x224x224 (or batchx3x224x224)"
        )
    specs = tuple(TensorSpec(name, "float32", shape) for name, shape in shapes.items())
    module = source.module.eval()
    example = {s.name: random_array(s, np.random.default_rng(0), 2) for s in specs}
    try:
        with torch.inference_mode():
            result = module(*(torch.from_numpy(example[s.name]) for s in specs))
    except Exception as e:
        reason = str(e).strip().splitlines()[-1] if str(e).strip() else type(e).__name__
        given = ", ".join(f"{s.name}={'x'.join(map(str, s.shape))}" for s in specs)
        raise KitError(f"{source.path}: the model does not run on {given} ({reason})") from None
    values = result if isinstance(result, (tuple, list)) else (result,)
    if not all(isinstance(v, Tensor) for v in values):
        raise KitError(
            f"{source.path}: the model answers {type(result).__name__}; expected tensors"
        )
    names = ["output"] if len(values) == 1 else [f"output_{i}" for i in range(len(values))]
    outputs = tuple(
        TensorSpec(n, str(v.dtype).removeprefix("torch."), ("any",) * v.dim())
        for n, v in zip(names, values, strict=True)
    )
    return Subject(source, specs, outputs, module, _torch_original(module, specs, outputs))


def _torch_original(
    module: Callable[..., Any], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Callable[[Arrays], Arrays]:
    def run(given: Arrays) -> Arrays:
        with torch.inference_mode():
            result = module(*(torch.from_numpy(given[s.name]) for s in inputs))
        values = result if isinstance(result, (tuple, list)) else (result,)
        return {s.name: v.numpy() for s, v in zip(outputs, values, strict=True)}

    return run


def _onnx_subject(source: Source, shapes: Shapes) -> Subject:
    import onnxruntime as ort

    from repack.onnx import nodes as operators

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(source.graph), options, ["CPUExecutionProvider"])
    except Exception as e:
        reason = operators.reason(source.graph, e)
        raise KitError(
            f"{source.path}: ONNX Runtime, whose answers the gate compares with, does not load it "
            f"({reason})"
        ) from None
    inputs = tuple(_onnx_spec(i, shapes.get(i.name), source.path) for i in session.get_inputs())
    unknown = set(shapes) - {s.name for s in inputs}
    if unknown:
        names = ", ".join(s.name for s in inputs)
        raise KitError(f"--input-shape names {', '.join(sorted(unknown))}; the model has {names}")
    outputs = tuple(_onnx_spec(o, None, source.path) for o in session.get_outputs())

    def original(given: Arrays) -> Arrays:
        values = session.run(None, given)
        return dict(zip((o.name for o in outputs), values, strict=True))

    return Subject(source, inputs, outputs, None, original)


ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def _onnx_spec(node: Any, shape: tuple[int | str, ...] | None, path: Path) -> TensorSpec:
    if node.type not in ONNX_TYPES:
        raise KitError(f"{path}: {node.name} is {node.type}; expected a tensor of numbers")
    own = tuple(n if isinstance(n, int) else str(n or "any") for n in node.shape)
    if shape is not None and len(shape) != len(own):
        raise KitError(f"--input-shape {node.name}={shape}: the model's own shape is {own}")
    return TensorSpec(node.name, ONNX_TYPES[node.type], shape or own)


def random_array(spec: TensorSpec, rng: np.random.Generator, batch: int) -> NDArray[Any]:
    """Values for one input: over its range, or standard normal; 8 for a free axis."""
    sizes = [
        n if isinstance(n, int) else (batch if i == 0 else 8) for i, n in enumerate(spec.shape)
    ]
    kind = np.dtype(spec.dtype).kind
    if spec.range and kind in "iu":
        return rng.integers(int(spec.range[0]), int(spec.range[1]) + 1, sizes).astype(spec.dtype)
    if kind in "iub":
        return rng.integers(0, 2, sizes).astype(spec.dtype)
    if spec.range:
        return rng.uniform(*spec.range, sizes).astype(spec.dtype)
    return rng.standard_normal(sizes).astype(spec.dtype)
