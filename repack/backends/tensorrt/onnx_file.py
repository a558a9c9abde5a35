"""PyTorch module or ONNX file -> the ONNX file that TensorRT reads, of any version from 8.6 on."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import GraphProto, TensorProto
from torch import nn

from handlers.errors import KitError
from repack.backends.tensorrt.request import EngineRequest
from repack.model import GpuModel
from repack.onnx import float_layers, instance_norm, symbolic, typed

SOURCE, QUANTISED = "engine.onnx", "engine-qdq.onnx"
PLUGINS, RANGES = "engine-plugins.onnx", "engine-int8.json"
"""In the folder ``work``: the ONNX file that engines are built from, the same with int8 layers, and
with TensorRT's plugins; the int8 ranges for TensorRT 8."""

OPSET = 17
"""The newest operators that the parser of TensorRT 8.6 knows; later ones read them too."""


def convert(form: GpuModel, target: Path, plugins: Path | None = None) -> None:
    """Writes the form as ONNX, the batch axis free, in operators that every version runs.

    Args:
        plugins: where to write it with TensorRT's own plugins too, if it has layers that they run.

    Raises:
        KitError: the exporter does not know something in the model.
    """
    if form.module is not None:
        _export(form, form.module, target)
    model = onnx.load(target if form.onnx is None else form.onnx)
    widen_bytes(model.graph)
    name_all(model.graph)
    if any(node.op_type == "InstanceNormalization" for node in model.graph.node):
        ranks = instance_norm.ranks(model)
        if plugins is not None:
            other = onnx.ModelProto()
            other.CopyFrom(model)
            if instance_norm.by_plugin(other.graph, ranks):
                instance_norm.by_layer_norm(other.graph, ranks)
                onnx.save(other, plugins)
        instance_norm.by_layer_norm(model.graph, ranks)
    onnx.save(model, target)


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


def name_all(graph: GraphProto) -> None:
    """Names the nodes that have none, so that TensorRT can be told what to do with each."""
    taken = {node.name for node in graph.node}
    for i, node in enumerate(graph.node):
        if not node.name:
            node.name = next(
                name for k in count() if (name := f"{node.op_type}_{i}{'_' * k}") not in taken
            )
            taken.add(node.name)


def _export(form: GpuModel, module: nn.Module, target: Path) -> None:
    """By PyTorch's older exporter: the newer one writes opset 18 and later only."""
    rng = np.random.default_rng(1)
    given = []
    for name, shape in form.shapes.items():
        sizes = [n if isinstance(n, int) else (2 if i == 0 else 8) for i, n in enumerate(shape)]
        given.append(torch.from_numpy(rng.uniform(0, 1, sizes).astype(form.dtypes[name])))
    axes = {
        name: {i: n for i, n in enumerate(shape) if isinstance(n, str)}
        for name, shape in form.shapes.items()
    }
    if any(isinstance(shape[0], str) for shape in form.shapes.values()):
        axes |= {name: {0: "batch"} for name in form.outputs}
    try:
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
            contextlib.redirect_stdout(sys.stderr),
            symbolic.registered(form.symbolic, OPSET),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                tuple(given),
                str(target),
                dynamo=False,
                opset_version=OPSET,
                do_constant_folding=True,
                input_names=list(form.shapes),
                output_names=list(form.outputs),
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
