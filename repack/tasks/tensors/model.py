"""Raw tensors in, raw tensors out: any ONNX, TorchScript or state-dict model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handlers.errors import KitError
from handlers.passport import TensorSpec
from repack.model import Arrays, Model, random_array
from repack.onnx import nodes
from repack.options import Shapes
from repack.sources.source import Source


def tensors(source: Source, shapes: Shapes) -> Model:
    """Any model: raw tensors in, raw tensors out.

    Args:
        shapes: shape per input name, as given by the user; TorchScript files and state dicts do not
            carry theirs. A word instead of a number is an axis of any length.

    Raises:
        KitError: shapes are missing, or the model does not run on them.
    """
    if source.module is None:
        return _of_onnx(source, shapes)
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
    return Model(source, specs, outputs, module, of_module(module, specs, outputs))


def of_module(
    module: Callable[..., Any], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Callable[[Arrays], Arrays]:
    """A module as ``Model.original``."""

    def run(given: Arrays) -> Arrays:
        with torch.inference_mode():
            result = module(*(torch.from_numpy(given[s.name]) for s in inputs))
        values = result if isinstance(result, (tuple, list)) else (result,)
        return {s.name: v.numpy() for s, v in zip(outputs, values, strict=True)}

    return run


def _of_onnx(source: Source, shapes: Shapes) -> Model:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(source.graph), options, ["CPUExecutionProvider"])
    except Exception as e:
        reason = nodes.reason(source.graph, e)
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

    return Model(source, inputs, outputs, None, original)


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
