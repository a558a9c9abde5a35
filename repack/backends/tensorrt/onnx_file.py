"""PyTorch module or ONNX file -> the ONNX file that TensorRT reads, of any version from 8.6 on."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import GraphProto, TensorProto
from torch import nn

from handlers.errors import KitError
from repack.backends.tensorrt.request import EngineRequest
from repack.model import GpuModel
from repack.onnx import float_layers, instance_norm, nodes, symbolic, typed

SOURCE, QUANTISED = "engine.onnx", "engine-qdq.onnx"
PLUGINS, RANGES = "engine-plugins.onnx", "engine-int8.json"
"""In the folder ``work``: the ONNX file that engines are built from, the same with int8 layers, and
with TensorRT's plugins; the int8 ranges for TensorRT 8."""

OPSET = 17
"""The newest operators that the parser of TensorRT 8.6 knows; later ones read them too."""


def convert(model: GpuModel, target: Path, plugins: Path | None = None) -> None:
    """Writes the model as ONNX, the batch axis free, in operators that every version runs.

    Args:
        plugins: where to write it with TensorRT's own plugins too, if it has layers that they run.

    Raises:
        KitError: the exporter does not know something in the model.
    """
    if model.module is not None:
        _export(model, model.module, target)
    proto = onnx.load(target if model.onnx is None else model.onnx)
    widen_bytes(proto.graph)
    nodes.name_all(proto.graph)
    if any(node.op_type == "InstanceNormalization" for node in proto.graph.node):
        ranks = instance_norm.ranks(proto)
        if plugins is not None:
            other = onnx.ModelProto()
            other.CopyFrom(proto)
            if instance_norm.by_plugin(other.graph, ranks):
                instance_norm.by_layer_norm(other.graph, ranks)
                onnx.save(other, plugins)
        instance_norm.by_layer_norm(proto.graph, ranks)
    onnx.save(proto, target)


def in_types(request: EngineRequest, work: Path) -> Path:
    """The file in the types that are to run, as TensorRT 10 and 11 read it; made once.

    Args:
        work: holds the file in 32-bit floats, ``SOURCE``.
    """
    source = work / SOURCE
    if request.precision == "f32":
        return source
    target = work / f"engine-{request.precision}.onnx"
    if not target.is_file():
        if request.precision == "int8":
            source = work / QUANTISED
            typed.quantised(work / SOURCE, source, request.fed())
        typed.half(source, target)
    return target


def int8_ranges(request: EngineRequest, work: Path) -> Path:
    """The file that ``handlers.engines.versions.Int8`` reads, for TensorRT 8; made once.

    Args:
        work: holds the file in 32-bit floats, ``SOURCE``.
    """
    target = work / RANGES
    if not target.is_file():
        graph = onnx.load(work / SOURCE).graph
        ranges, layers = typed.ranges(work / SOURCE, request.fed()), float_layers.ends(graph)
        tensors = [name for name in float_layers.between(graph, layers) if name in ranges]
        told = {"ranges": ranges, "floats": layers, "between": tensors}
        target.write_text(json.dumps(told), encoding="utf-8")
    return target


def _export(model: GpuModel, module: nn.Module, target: Path) -> None:
    """By PyTorch's older exporter: the newer one writes opset 18 and later only."""
    rng = np.random.default_rng(1)
    given = []
    for name, shape in model.shapes.items():
        sizes = [n if isinstance(n, int) else (2 if i == 0 else 8) for i, n in enumerate(shape)]
        given.append(torch.from_numpy(rng.uniform(0, 1, sizes).astype(model.dtypes[name])))
    axes = {
        name: {i: n for i, n in enumerate(shape) if isinstance(n, str)}
        for name, shape in model.shapes.items()
    }
    if any(isinstance(shape[0], str) for shape in model.shapes.values()):
        axes |= {name: {0: "batch"} for name in model.outputs}
    try:
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
            contextlib.redirect_stdout(sys.stderr),
            symbolic.registered(model.symbolic, OPSET),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                tuple(given),
                str(target),
                dynamo=False,
                opset_version=OPSET,
                do_constant_folding=True,
                input_names=list(model.shapes),
                output_names=list(model.outputs),
                dynamic_axes=axes,
            )
    except Exception as e:
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise KitError(f"PyTorch's ONNX exporter does not take this model ({reason})") from None


def widen_bytes(graph: GraphProto) -> None:
    """Makes uint8 inputs float32: TensorRT 8.6 takes bytes only where a Cast follows at once.

    The values stay; the runtime casts on the GPU. A Cast to float that follows does nothing then.
    """
    for value in graph.input:
        kind = value.type.tensor_type
        if kind.elem_type == TensorProto.UINT8:
            kind.elem_type = TensorProto.FLOAT
