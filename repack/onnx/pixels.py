"""Changes to the ONNX graph of a model of pictures: pixels in, any number of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repack.onnx.nodes import opset
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
        grey: of one channel, the luma; ``mean`` and ``std`` are three times its own.
        dtype: of its input, "float32" or "float16".
    """

    layout: str
    mean: Three = (0, 0, 0)
    std: Three = (1, 1, 1)
    bgr: bool = False
    grey: bool = False
    dtype: str = "float32"

    @property
    def channels(self) -> int:
        return 1 if self.grey else 3


LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey value: ITU-R BT.601, as Pillow's "L" and OpenCV have
them."""


def input_name(model: ModelProto) -> str:
    """What ``take_pixels`` and ``take_planes`` call the new input of such a model."""
    return _free_name(model.graph, "pixels")


def take_pixels(model: ModelProto, sides: tuple[int, int], normal: Normal) -> None:
    """Puts scaling, normalising and transposing in front of the model's only input; the new one is
    ``[N, H, W, 3]`` uint8 RGB.

    Args:
        model: changed in place; its input is float32 or float16.
        sides: height and width of the pictures, pixels.
    """
    g = _Front(model)
    last = g.add("Cast", g.name, to=TensorProto.FLOAT)
    if normal.bgr:
        last = g.add("Gather", last, g.constant([2, 1, 0], np.int64), axis=3)
    if normal.grey:
        last = g.luma(last, 3)
    mean, std = (np.array(v[: normal.channels], np.float32) for v in (normal.mean, normal.std))
    last = g.add("Sub", last, g.constant(mean * 255))
    last = g.add("Mul", last, g.constant(1 / (std * 255)))
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
    if normal.grey:
        last = g.luma(last, 1)
    mean, std = (np.reshape(v[: normal.channels], (1, -1, 1, 1)) for v in (normal.mean, normal.std))
    if mean.any():
        last = g.add("Sub", last, g.constant(mean))
    if (std != 1).any():
        last = g.add("Mul", last, g.constant(1 / std))
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
        self.opset = opset(model)
        self.nodes: list[NodeProto] = []

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> str:
        name = f"{PREFIX}constant_{len(self.nodes)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = PREFIX + (name or op.lower())
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def luma(self, values: str, axis: int) -> str:
        """One channel of the three that lie on the axis."""
        shares = np.reshape(LUMA, [3 if i == axis else 1 for i in range(4)])
        weighed = self.add("Mul", values, self.constant(shares), name="weigh")
        if self.opset < 13:
            return self.add("ReduceSum", weighed, axes=[axis], keepdims=1)
        return self.add("ReduceSum", weighed, self.constant([axis], np.int64), keepdims=1)

    def finish(self, dtype: int, shape: Sequence[int]) -> None:
        """Lets the old input be what these nodes give, and the new one the model's.

        Args:
            shape: of the new input, without the batch.
        """
        kind = self.old.type.tensor_type.elem_type
        if kind != TensorProto.FLOAT:
            self.add("Cast", self.nodes[-1].output[0], name="narrow", to=kind)
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


def fix_batch(model: ModelProto, size: int) -> None:
    """Fixes the first axis of the model's only input, in place."""
    _only_input(model.graph).type.tensor_type.shape.dim[0].dim_value = size
    del model.graph.value_info[:]


def widen(model: ModelProto) -> None:
    """Lets outputs in 16-bit floats be in 32 bits, by their own names, in place."""
    half = TensorProto.FLOAT16
    for output in model.graph.output:
        if output.type.tensor_type.elem_type != half:
            continue
        inner = f"{output.name}_half"
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [inner if name == output.name else name for name in names]
        cast = helper.make_node(
            "Cast", [inner], [output.name], PREFIX + inner, to=TensorProto.FLOAT
        )
        model.graph.node.append(cast)
        output.type.tensor_type.elem_type = TensorProto.FLOAT


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
