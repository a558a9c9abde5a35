"""InstanceNormalization in the two forms that TensorRT 8.6 runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from handlers.errors import KitError

PLUGIN = "InstanceNormalization_TRT"
"""TensorRT's own plugin. With five axes it takes 16-bit values in channels of eight, as TensorRT's
convolutions give them, and applies the ReLU that follows; in any other layout it calls cuDNN 8
(``plugin/instanceNormalizationPlugin`` in NVIDIA's TensorRT repository, tag v8.6.0)."""

SAME_RANK = ("Cast", "Dropout", "Identity", "LeakyRelu", "Relu")
"""Operators that a rank is looked for behind."""

Ranks = Mapping[str, int]


def ranks(model: ModelProto) -> dict[str, int]:
    """The number of axes of each tensor, as far as ONNX's shape inference tells it."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    told = (*graph.value_info, *graph.input, *graph.output)
    kinds = {value.name: value.type.tensor_type for value in told}
    return {name: len(k.shape.dim) for name, k in kinds.items() if k.HasField("shape")}


def by_plugin(graph: GraphProto, ranks: Ranks) -> int:
    """Hands InstanceNormalization of five axes to TensorRT's plugin, with the ReLU after it.

    Returns:
        How many there were. Others stay: of channels that are no multiple of 8, with weights that
        are no constants; and all of a graph that holds graphs, which may read any tensor.
    """
    if any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        return 0
    weights = _constants(graph)
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    kept = {value.name for value in graph.output}
    fused: list[NodeProto] = []
    count = 0
    for node in graph.node:
        if node.op_type != "InstanceNormalization" or not {*node.input[1:]} <= weights.keys():
            continue
        x, scale, bias = node.input
        if len(weights[scale]) % 8 or _rank(graph, ranks, x) != 5:
            continue
        fields: dict[str, Any] = {
            "epsilon": _attribute(node, "epsilon", 1e-5),
            "scales": weights[scale].astype(np.float32).tolist(),
            "bias": weights[bias].astype(np.float32).tolist(),
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
            fused.append(after[0])
        name = node.name or given
        node.CopyFrom(helper.make_node(PLUGIN, [x], [given], name, plugin_version="1", **fields))
        count += 1
    for node in fused:
        graph.node.remove(node)
    return count


def _constants(graph: GraphProto) -> dict[str, NDArray[Any]]:
    """Weights, also those that the exporter writes as nodes: a norm without any has ones."""
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _attribute(node: NodeProto, name: str, otherwise: float) -> float:
    return next((a.f for a in node.attribute if a.name == name), otherwise)


def by_layer_norm(graph: GraphProto, ranks: Ranks) -> None:
    """Writes InstanceNormalization as LayerNormalization of each flattened channel.

    The same numbers: both take mean and variance over one channel's values. TensorRT 8.6 hands
    InstanceNormalization to its plugin; LayerNormalization it runs itself, its sums in 32 bits also
    where the rest is in 16.

    Raises:
        KitError: a rank cannot be told.
    """
    nodes = []
    for node in graph.node:
        if node.op_type != "InstanceNormalization":
            nodes.append(node)
            continue
        nodes += _layer_norm(graph, ranks, node)
    del graph.node[:]
    graph.node.extend(nodes)


def _layer_norm(graph: GraphProto, ranks: Ranks, node: NodeProto) -> list[NodeProto]:
    x, scale, bias = node.input
    rank = _rank(graph, ranks, x)
    if rank is None:
        raise KitError(f"InstanceNormalization of {x} (scale {scale}): its rank cannot be told")
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


def _rank(graph: GraphProto, ranks: Ranks, x: str) -> int | None:
    """From shape inference, or where an operator that it does not know lies before, from a
    convolution's weights."""
    if x in ranks:
        return ranks[x]
    makers = {name: node for node in graph.node for name in node.output}
    maker = makers.get(x)
    while maker is not None and maker.op_type in SAME_RANK:
        maker = makers.get(maker.input[0])
    if maker is None or maker.op_type not in ("Conv", "ConvTranspose"):
        return None
    return next((len(t.dims) for t in graph.initializer if t.name == maker.input[1]), None)
