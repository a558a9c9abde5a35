"""InstanceNormalization in the two forms that TensorRT 8.6 runs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, helper, numpy_helper

from handlers.errors import KitError

PLUGIN = "InstanceNormalization_TRT"
"""TensorRT's own plugin. With five axes it takes 16-bit values in channels of eight, as TensorRT's
convolutions give them, and applies the ReLU that follows; in any other layout it calls cuDNN 8
(``plugin/instanceNormalizationPlugin`` in NVIDIA's TensorRT repository, tag v8.6.0)."""


def by_plugin(graph: GraphProto) -> int:
    """Hands InstanceNormalization of five axes to TensorRT's plugin, with the ReLU after it.

    Returns:
        How many there were; others, and those of channels that are no multiple of 8, stay.
    """
    weights = {t.name: t for t in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    kept = {value.name for value in graph.output}
    done: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        if node.op_type != "InstanceNormalization" or not {*node.input[1:]} <= weights.keys():
            continue
        x, scale, bias = node.input
        values = [numpy_helper.to_array(weights[name]).astype(np.float32) for name in (scale, bias)]
        if len(values[0]) % 8 or _rank(graph, scale, x) != 5:
            continue
        fields = {
            "epsilon": _attribute(node, "epsilon", 1e-5),
            "scales": values[0].tolist(),
            "bias": values[1].tolist(),
            "relu": 0,
            "alpha": 0.0,
        }
        (given,) = node.output
        after = readers.get(given, [])
        if given not in kept and len(after) == 1 and after[0].op_type in ("Relu", "LeakyRelu"):
            fields["relu"] = 1
            if after[0].op_type == "LeakyRelu":
                fields["alpha"] = _attribute(after[0], "alpha", 0.01)
            (given,) = after[0].output
            done.append(after[0])
        name = node.name or given
        node.CopyFrom(helper.make_node(PLUGIN, [x], [given], name, plugin_version="1", **fields))
        count += 1
    for node in done:
        graph.node.remove(node)
    return count


def _attribute(node: onnx.NodeProto, name: str, otherwise: float) -> float:
    return next((a.f for a in node.attribute if a.name == name), otherwise)


def by_layer_norm(graph: GraphProto) -> None:
    """Writes InstanceNormalization as LayerNormalization of each flattened channel.

    The same numbers: both take mean and variance over one channel's values. TensorRT 8.6 hands
    InstanceNormalization to a plugin that may want cuDNN 8; LayerNormalization it runs itself, its
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
    epsilon = _attribute(node, "epsilon", 1e-5)
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
