"""PyTorch module or ONNX file -> the ONNX file that TensorRT reads, of any version from 8.6 on."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import GraphProto, TensorProto, helper, numpy_helper
from torch import nn

from handlers.errors import KitError
from repack import symbolic
from repack.device_forms import DeviceForm

OPSET = 17
"""The newest operators that the parser of TensorRT 8.6 knows; later ones read them too."""


def convert(form: DeviceForm, target: Path) -> None:
    """Writes the form as ONNX, the batch axis free, in operators that every version runs.

    Raises:
        KitError: the exporter does not know something in the model.
    """
    if form.module is not None:
        _export(form, form.module, target)
    model = onnx.load(target if form.onnx is None else form.onnx)
    widen_bytes(model.graph)
    replace_instance_norm(model.graph)
    onnx.save(model, target)


def _export(form: DeviceForm, module: nn.Module, target: Path) -> None:
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


def replace_instance_norm(graph: GraphProto) -> None:
    """Writes InstanceNormalization as LayerNormalization of each flattened channel.

    The same numbers: both take mean and variance over one channel's values. TensorRT 8.6 hands
    InstanceNormalization to a plugin that wants cuDNN 8; LayerNormalization it runs itself, its
    sums in 32 bits also where the rest is in 16.
    """
    nodes = []
    for node in graph.node:
        if node.op_type != "InstanceNormalization":
            nodes.append(node)
            continue
        nodes += _layer_norm(graph, node)
    del graph.node[:]
    graph.node.extend(nodes)


def _layer_norm(graph: GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    x, scale, bias = node.input
    rank = _rank(graph, scale, x)
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    name = node.name or node.output[0]

    def constant(suffix: str, value: object, dtype: type[np.generic]) -> str:
        full = f"{name}_{suffix}"
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), full))
        return full

    axes = list(range(1, 1 + rank - 2))
    flat, normal, shape = f"{name}_flat", f"{name}_normal", f"{name}_shape"
    back, scaled = f"{name}_back", f"{name}_scaled"
    wide_scale, wide_bias = f"{name}_wide_scale", f"{name}_wide_bias"
    wide = constant("axes", axes, np.int64)
    return [
        helper.make_node("Shape", [x], [shape], shape),
        helper.make_node("Reshape", [x, constant("flatten", [0, 0, -1], np.int64)], [flat], flat),
        helper.make_node(
            "LayerNormalization",
            [flat, constant("one", [1.0], np.float32), constant("zero", [0.0], np.float32)],
            [normal],
            normal,
            axis=-1,
            epsilon=epsilon,
        ),
        helper.make_node("Reshape", [normal, shape], [back], back),
        helper.make_node("Unsqueeze", [scale, wide], [wide_scale], wide_scale),
        helper.make_node("Unsqueeze", [bias, wide], [wide_bias], wide_bias),
        helper.make_node("Mul", [back, wide_scale], [scaled], scaled),
        helper.make_node("Add", [scaled, wide_bias], [node.output[0]], f"{name}_shifted"),
    ]


def _rank(graph: GraphProto, scale: str, x: str) -> int:
    """The rank of a normalised tensor, from shape inference or from the weights around it."""
    for value in (*graph.value_info, *graph.input):
        if value.name == x and value.type.tensor_type.HasField("shape"):
            return len(value.type.tensor_type.shape.dim)
    sizes = {t.name: len(t.dims) for t in graph.initializer}
    source = next((n for n in graph.node if x in n.output), None)
    while source is not None:
        if source.op_type in ("Conv", "ConvTranspose") and source.input[1] in sizes:
            return sizes[source.input[1]]
        first = source.input[0]
        source = next((n for n in graph.node if first in n.output), None)
    raise KitError(f"InstanceNormalization of {x} (scale {scale}): its rank cannot be told")
