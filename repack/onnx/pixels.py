"""Changes to the ONNX graph of a model of pictures: pixels in, any number of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repack.options import Three

PREFIX = "pixels_"
"""How the added nodes' names begin."""


@dataclass(frozen=True)
class Normal:
    """How pixels become what a model was trained on.

    Attributes:
        layout: of its input, "NCHW" or "NHWC".
        mean, std: of values between 0 and 1, in the model's own order of channels.
        bgr: blue comes first.
    """

    layout: str
    mean: Three
    std: Three
    bgr: bool = False


def input_name(model: ModelProto) -> str:
    """What ``take_pixels`` and ``take_planes`` call the new input of such a model."""
    return _free_name(model.graph, "pixels")


def take_pixels(model: ModelProto, sides: tuple[int, int], normal: Normal) -> None:
    """Puts scaling, normalising and transposing in front of the model's only input; the new one is
    ``[N, H, W, 3]`` uint8 RGB.

    Args:
        model: changed in place; its input is float32.
        sides: height and width of the pictures, pixels.
    """
    g = _Front(model)
    last = g.add("Cast", g.name, to=TensorProto.FLOAT)
    if normal.bgr:
        last = g.add("Gather", last, g.constant([2, 1, 0], np.int64), axis=3)
    last = g.add("Sub", last, g.constant(np.array(normal.mean, np.float32) * 255))
    last = g.add("Mul", last, g.constant(1 / (np.array(normal.std, np.float32) * 255)))
    if normal.layout == "NCHW":
        g.add("Transpose", last, perm=[0, 3, 1, 2])
    g.finish(TensorProto.UINT8, (*sides, 3))


def take_planes(model: ModelProto, sides: tuple[int, int], normal: Normal) -> None:
    """As ``take_pixels``; the new input is ``[N, 3, H, W]`` float32 RGB, 0..1, which is what the
    runtimes on a GPU have."""
    g = _Front(model)
    last = g.name
    if normal.bgr:
        last = g.add("Gather", last, g.constant([2, 1, 0], np.int64), axis=1)
    if any(normal.mean):
        last = g.add("Sub", last, g.constant(np.reshape(normal.mean, (1, 3, 1, 1))))
    if normal.std != (1, 1, 1):
        last = g.add("Mul", last, g.constant(1 / np.reshape(normal.std, (1, 3, 1, 1))))
    if normal.layout == "NHWC":
        last = g.add("Transpose", last, perm=[0, 2, 3, 1])
    if not g.nodes:
        g.add("Identity", last)
    g.finish(TensorProto.FLOAT, (3, *sides))


class _Front:
    """Nodes in front of the model's only input; their names begin with ``PREFIX``.

    Attributes:
        name: of the new input.
    """

    def __init__(self, model: ModelProto):
        self.graph = model.graph
        self.old = _only_input(model.graph)
        self.name = input_name(model)
        self.nodes: list[NodeProto] = []

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> str:
        name = f"{PREFIX}constant_{len(self.nodes)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{PREFIX}{op.lower()}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def finish(self, dtype: int, shape: Sequence[int]) -> None:
        """Lets the old input be what these nodes give, and the new one the model's.

        Args:
            shape: of the new input, without the batch.
        """
        batch = self.old.type.tensor_type.shape.dim[0]
        size = batch.dim_value if batch.HasField("dim_value") else "batch"
        self.nodes[-1].output[0] = self.old.name
        self.nodes[-1].name = PREFIX + "last"
        self.graph.input.remove(self.old)
        self.graph.input.insert(0, helper.make_tensor_value_info(self.name, dtype, [size, *shape]))
        kept = [*self.nodes, *self.graph.node]
        del self.graph.node[:]
        self.graph.node.extend(kept)
        del self.graph.value_info[:]  # noted for the sizes that the file was exported with


def set_sides(model: ModelProto, sides: tuple[int, int], layout: str) -> None:
    """Fixes height and width of the model's only input, in place."""
    axes = _only_input(model.graph).type.tensor_type.shape.dim
    for axis, size in zip(("H", "W"), sides, strict=True):
        axes[layout.index(axis)].dim_value = size
    del model.graph.value_info[:]


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
