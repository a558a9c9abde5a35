"""Which layers of an int8 network are left in floats, and which tensors lie between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from onnx import GraphProto

QUANTISED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators that run in int8."""

AT_OUTPUTS = 2
"""Layers before each output that are left in floats. With 1 the shipped YOLOv5n lost 1.2 points of
mAP50-95 and a YOLOv5s 1.0, with 2 0.3 and 0.2 (``benchmarks/int8_tensors.py``); with every layer in
int8 and whole ranges, the former lost 25."""

AT_INPUTS = 1
"""The same after each input. With 4 the outputs were a third nearer to the original, but both lost
0.4 points, and 21 instead of 13 % of the YOLOv5s's multiplications were in floats."""

SIZES = ("Shape", "Size")
"""Operators that look at no value."""

SOFTMAX = "Softmax"
MOVING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
"""Operators that move values and change none."""


class Way(NamedTuple):
    """A node that values of the inputs pass through.

    Attributes:
        layer: its name if it is one of ``QUANTISED``, else "".
        fed, given: what it is fed of these values, and what it gives.
        mean: whether it averages by a softmax's shares, as YOLOv8's boxes are decoded: a layer that
            costs nothing, and does not count as one.
    """

    layer: str
    fed: Sequence[str]
    given: Sequence[str]
    mean: bool = False


def ends(graph: GraphProto) -> list[str]:
    """The first ``AT_INPUTS`` layers after a graph's inputs, and the last ``AT_OUTPUTS`` before its
    outputs, by the shortest way.

    None where that leaves less than half of the layers.
    """
    ways = _ways(graph)
    found = _near((value.name for value in graph.input), ways, AT_INPUTS)
    back = [way._replace(fed=way.given, given=way.fed) for way in reversed(ways)]
    found |= _near((value.name for value in graph.output), back, AT_OUTPUTS)
    return sorted(found) if 2 * len(found) <= sum(bool(way.layer) for way in ways) else []


def between(graph: GraphProto, layers: Sequence[str]) -> list[str]:
    """The tensors that are made of these layers' and the inputs' values alone, and lead to one of
    these layers or to an output without passing through another.

    Other layers may read them, too.
    """
    ways = _ways(graph)
    inputs = {value.name for value in graph.input}
    behind, before = set(inputs), {value.name for value in graph.output}
    for name, fed, given, _ in ways:
        if name in layers if name else behind.issuperset(fed):
            behind.update(given)
    for name, fed, given, _ in reversed(ways):
        if name in layers if name else not before.isdisjoint(given):
            before.update(fed)
    return sorted((behind & before) - inputs)


def _ways(graph: GraphProto) -> list[Way]:
    apart = {tensor.name for tensor in graph.initializer}
    shares: set[str] = set()
    found: list[Way] = []
    for node in graph.node:
        fed = [name for name in node.input if name and name not in apart]
        given = [name for name in node.output if name]
        if not fed or node.op_type in SIZES:
            apart.update(given)
            continue
        mean = node.op_type in QUANTISED and shares.issuperset(fed)
        if node.op_type == SOFTMAX or (node.op_type in MOVING and fed[0] in shares):
            shares.update(given)
        found.append(Way(node.name if node.op_type in QUANTISED else "", fed, given, mean))
    return found


def _near(tensors: Iterable[str], ways: Sequence[Way], count: int) -> set[str]:
    """The layers that fewer than ``count`` others part from these tensors.

    Args:
        ways: with the tensors on the near side before those on the far one, in their order.
    """
    far = dict.fromkeys(tensors, 0)
    """Tensors on the way, and how many layers lie before them."""
    found = set()
    for name, near_side, far_side, mean in ways:
        steps = min((far[tensor] for tensor in near_side if tensor in far), default=count)
        if steps < count:
            found |= {name} if name else set()
            for tensor in far_side:
                far[tensor] = min(far.get(tensor, count), steps + (bool(name) and not mean))
    return found
