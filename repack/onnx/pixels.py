"""Changes to a classifier's ONNX graph: pixels in, and any number of pictures at once."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from repack.options import Three

PREFIX = "pixels_"
"""How the added nodes' names begin."""


def take_pixels(model: ModelProto, crop: int, layout: str, mean: Three, std: Three) -> str:
    """Puts scaling, normalising and transposing in front of the model's only input.

    Args:
        model: changed in place; its input is float32.
        crop: side of the pictures, pixels.
        layout: of the model's own input, "NCHW" or "NHWC".
        mean, std: of values between 0 and 1, RGB.

    Returns:
        The new input's name: ``[N, crop, crop, 3]`` uint8 RGB.
    """
    graph = model.graph
    old = _only_input(graph)
    batch = old.type.tensor_type.shape.dim[0]
    name = _free_name(graph, "pixels")
    offset, scale = np.array(mean, np.float32) * 255, 1 / (np.array(std, np.float32) * 255)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v, np.float32), PREFIX + n)
        for n, v in (("offset", offset), ("scale", scale))
    )
    steps = [
        helper.make_node("Cast", [name], [PREFIX + "float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", [PREFIX + "float", PREFIX + "offset"], [PREFIX + "centred"]),
        helper.make_node("Mul", [PREFIX + "centred", PREFIX + "scale"], [PREFIX + "normal"]),
    ]
    if layout == "NCHW":
        last, out = steps[-1].output[0], PREFIX + "planes"
        steps.append(helper.make_node("Transpose", [last], [out], perm=[0, 3, 1, 2]))
    steps[-1].output[0] = old.name
    for step in steps:
        step.name = PREFIX + step.op_type.lower()
    steps[-1].name = PREFIX + "last"
    size = batch.dim_value if batch.HasField("dim_value") else "batch"
    shape = [size, crop, crop, 3]
    graph.input.remove(old)
    graph.input.insert(0, helper.make_tensor_value_info(name, TensorProto.UINT8, shape))
    nodes = [*steps, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # noted for the sizes that the file was exported with
    return name


def free_batch(model: ModelProto) -> None:
    """Lets the first axis of inputs and outputs be of any length, in place.

    Constant targets of ``Reshape`` that name the fixed batch take the input's own instead. Whether
    the model then answers the same is for the caller to compare.
    """
    graph = model.graph
    size = _only_input(graph).type.tensor_type.shape.dim[0].dim_value
    for value in [_only_input(graph), *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]
    constants = {t.name: t for t in graph.initializer}
    constants |= {
        n.output[0]: n.attribute[0].t
        for n in graph.node
        if n.op_type == "Constant" and n.attribute[0].name == "value"
    }
    for i, node in enumerate(graph.node):
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        target = numpy_helper.to_array(constants[node.input[1]]).copy()
        if target.size and target[0] == size:
            target[0] = 0  # the input's own length, in ONNX's Reshape
            name = f"{PREFIX}shape_{i}"
            graph.initializer.append(numpy_helper.from_array(target, name))
            node.input[1] = name


def _only_input(graph: GraphProto) -> onnx.ValueInfoProto:
    """The input that is no weight: older files list their weights among the inputs."""
    weights = {t.name for t in graph.initializer}
    (found,) = [i for i in graph.input if i.name not in weights]
    return found


def _free_name(graph: GraphProto, wanted: str) -> str:
    taken: set[str] = {t.name for t in graph.initializer}
    taken |= {v.name for v in (*graph.input, *graph.output)}
    for node in graph.node:
        taken |= {*node.input, *node.output}
    while wanted in taken:
        wanted += "_"
    return wanted
