"""Box decoding and non-maximum suppression at the end of a detector's ONNX graph.

Only cells whose objectness passes the threshold are decoded: of 25,200 boxes at 640x640 that is a
handful, and decoding all of them costs as much as a third of the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, TensorProto, helper, numpy_helper

from handlers.heads import Grid, Head
from handlers.heads.rows import Masked, Posed, Scored
from handlers.heads.yolov5 import YOLOv5
from repack.onnx import nodes

NEVER = -80.0
"""A value that no threshold lets pass, before a sigmoid or without one."""


class Graph:
    """Adds nodes and constants to an ONNX graph, all named ``nms_...``.

    Args:
        opset: of the graph, 11 or later: some operators took their axes otherwise before.
    """

    def __init__(self, graph: GraphProto, opset: int):
        self.graph = graph
        self.opset = opset

    def constant(self, value: Any, dtype: type[np.generic] = np.int64) -> str:
        name = f"nms_constant_{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(value, np.float32)

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = f"nms_{op}_{len(self.graph.node)}"
        output = output or name
        self.graph.node.append(helper.make_node(op, inputs, [output], name, **attributes))
        return output

    def largest(self, values: str, axis: int, keepdims: int) -> str:
        if self.opset < 18:
            return self.add("ReduceMax", values, axes=[axis], keepdims=keepdims)
        return self.add("ReduceMax", values, self.constant([axis]), keepdims=keepdims)

    def unsqueeze(self, values: str, axes: Sequence[int]) -> str:
        if self.opset < 13:
            return self.add("Unsqueeze", values, axes=list(axes))
        return self.add("Unsqueeze", values, self.constant(list(axes)))

    def columns(self, rows: str, first: int, last: int | None) -> str:
        """Columns ``first`` to ``last`` of ``[K, ...]``."""
        end = np.iinfo(np.int64).max if last is None else last
        return self.add(
            "Slice", rows, self.constant([first]), self.constant([end]), self.constant([-1])
        )


@dataclass(frozen=True)
class Columns:
    """``width`` columns of rows ``[K, ...]``, from column ``begin`` on."""

    g: Graph
    rows: str
    begin: int = 0
    width: int = 0

    def __call__(self, first: int, last: int | None) -> str:
        end = None if last is None else self.begin + last
        return self.g.columns(self.rows, self.begin + first, end)


class Tail(ABC):
    """A family's ``handlers.heads.Head`` in nodes: the same formulas on ``[K, ...]`` rows."""

    def __init__(self, head: Head):
        self.head = head

    @abstractmethod
    def first(self, g: Graph, name: str) -> str:
        """``Head.first`` of a raw map ``[N, anchors, H, W, values]``: ``[N, anchors, H, W]``."""

    @abstractmethod
    def decode(self, g: Graph, raw: Columns, grid: Columns) -> tuple[str, str, str]:
        """Centre and size of ``Head.decode``, and ``Head.confidence``: ``[K, 2]``, ``[K, 2]`` and
        ``[K, classes]``."""


class YOLOv5Tail(Tail):
    """Of ``handlers.heads.YOLOv5``."""

    def first(self, g: Graph, name: str) -> str:
        return g.add("Gather", name, g.constant(4), axis=4)

    def decode(self, g: Graph, raw: Columns, grid: Columns) -> tuple[str, str, str]:
        y = Columns(g, g.add("Sigmoid", raw(0, raw.width)))
        two = g.number(2)
        cell = g.add("Add", g.add("Mul", y(0, 2), two), grid(0, 2))
        centre = g.add("Mul", cell, grid(2, 3))
        double = g.add("Mul", y(2, 4), two)
        size = g.add("Mul", g.add("Mul", double, double), grid(3, 5))
        return centre, size, g.add("Mul", y(5, None), y(4, 5))


class ScoredTail(Tail):
    """Of ``handlers.heads.rows.Scored``."""

    def first(self, g: Graph, name: str) -> str:
        return g.largest(g.columns(name, 4, 4 + self.head.classes), -1, 0)

    def decode(self, g: Graph, raw: Columns, grid: Columns) -> tuple[str, str, str]:
        return raw(0, 2), raw(2, 4), raw(4, 4 + self.head.classes)


TAILS: dict[str, type[Tail]] = {
    YOLOv5.name: YOLOv5Tail,
    **dict.fromkeys((Scored.name, Posed.name, Masked.name), ScoredTail),
}
"""By the head's name; none for a ranked one, nor for rectangles, which the operator
does not suppress."""


def append(
    source: Path, target: Path, head: Head, confidence: float, iou: float, limit: int
) -> None:
    """Adds output "detections".

    Args:
        source: ONNX file whose outputs are a detector's raw maps, one per scale,
            ``[N, anchors, H, W, values]`` float32, of fixed H and W, or one ``[N, M, values]``.
        target: the new file; "detections" is ``[M, 7 + k]`` float32: index in the batch, x1, y1,
            x2, y2 in pixels, confidence, class index, and the head's k extras. The boxes are those
            of ``handlers.boxes.nms``.
        head: what decodes the maps.
        confidence: boxes of at most this confidence are dropped.
        iou: overlap above which the less confident box of a class is dropped.
        limit: most boxes kept per picture and class.
    """
    model = onnx.load(source)
    g, tail = Graph(model.graph, nodes.opset(model)), TAILS[head.name](head)
    outputs = {o.name: o for o in model.graph.output}
    maps = [name for name in outputs if name not in head.beside]
    grids = head.grids([_sides(outputs[name].type.tensor_type.shape.dim) for name in maps])
    found = [
        _candidates(g, tail, name, grid, head, confidence)
        for name, grid in zip(maps, grids, strict=True)
    ]
    nothing = np.zeros((1, head.values + grids[0].shape[3] + 1), np.float32)
    nothing[0, : head.values] = NEVER  # a row, so that no step sees an empty list
    rows = g.add("Concat", *found, g.constant(nothing, np.float32), axis=0)
    scored = _scored(g, tail, rows, head, grids[0].shape[3])
    _suppress(g, scored, maps[0], head.classes, (confidence, iou, limit))
    out = helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["found", 7 + head.extras])
    model.graph.output.append(out)
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _sides(axes: Sequence[Any]) -> tuple[int, int]:
    """Height and width of a map; rows ``[N, M, values]`` are one row of cells."""
    height, width = axes[2:4] if len(axes) == 5 else (None, axes[1])
    return height.dim_value if height else 1, width.dim_value


def _candidates(g: Graph, tail: Tail, name: str, grid: Grid, head: Head, confidence: float) -> str:
    """``[K, values + k + 1]``: raw values, grid and picture of the cells above the threshold."""
    least = g.number(head.threshold(confidence))
    passing = g.add("Greater", tail.first(g, name), least)
    where = g.add("Transpose", g.add("NonZero", passing), perm=[1, 0])
    parts = [g.add("GatherND", name, where)]
    if grid.shape[3]:
        cells = g.columns(where, 1, None)
        parts.append(g.add("GatherND", g.constant(grid, np.float32), cells))
    owner = g.add("Cast", g.columns(where, 0, 1), to=TensorProto.FLOAT)
    return g.add("Concat", *parts, owner, axis=1)


def _scored(g: Graph, tail: Tail, rows: str, head: Head, k: int) -> str:
    """Columns as in "detections", of rows as ``_candidates`` gives them."""
    values = head.values
    raw, grid = Columns(g, rows, 0, values), Columns(g, rows, values, k)
    centre, size, scores = tail.decode(g, raw, grid)
    reach = g.add("Mul", size, g.number(0.5))
    best = g.largest(scores, 1, 1)
    kind = g.add("Cast", g.add("ArgMax", scores, axis=1, keepdims=1), to=TensorProto.FLOAT)
    low, high = g.add("Sub", centre, reach), g.add("Add", centre, reach)
    picture = g.columns(rows, values + k, values + k + 1)
    more = [raw(values - head.extras, values)] if head.extras else []
    return g.add("Concat", picture, low, high, best, kind, *more, axis=1)


def _suppress(
    g: Graph, rows: str, maps: str, classes: int, thresholds: tuple[float, float, int]
) -> None:
    """Suppression per picture and class, each a dimension of the operator's own."""
    confidence, iou, limit = thresholds
    pictures = g.add("Gather", g.add("Shape", maps), g.constant(0))
    numbers = g.add("Range", g.constant(0), pictures, g.constant(1))
    one = g.constant([1])
    picture = g.unsqueeze(g.add("Cast", numbers, to=TensorProto.FLOAT), [1, 2])
    kinds = g.constant(np.arange(classes).reshape(1, classes, 1), np.float32)

    def across(column: int) -> str:
        """One column as ``[1, 1, K]``."""
        values = g.columns(rows, column, column + 1)
        return g.unsqueeze(g.add("Transpose", values, perm=[1, 0]), [0])

    mine = g.add("And", g.add("Equal", across(0), picture), g.add("Equal", across(6), kinds))
    scores = g.add("Mul", g.add("Cast", mine, to=TensorProto.FLOAT), across(5))
    corners = g.unsqueeze(g.columns(rows, 1, 5), [0])
    shape = g.add("Concat", g.unsqueeze(pictures, [0]), one, one, axis=0)
    selected = g.add(
        "NonMaxSuppression",
        g.add("Expand", corners, shape),
        scores,
        g.constant([limit]),
        g.constant([iou], np.float32),
        g.constant([confidence], np.float32),
    )
    kept = g.add("Gather", selected, g.constant(2), axis=1)
    g.add("Gather", rows, kept, output="detections", axis=0)
