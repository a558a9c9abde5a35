"""Small models of kinds that a gate can judge wrongly, each made by a function of its own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
INT64, BOOL = TensorProto.INT64, TensorProto.BOOL
Value = tuple[str, int, Sequence[int | str]]


def saved(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    **constants: Any,
) -> Path:
    """An ONNX file of these nodes."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(n, t, list(s)) for n, t, s in inputs],
        [helper.make_tensor_value_info(n, t, list(s)) for n, t, s in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    domains = sorted({node.domain for node in nodes} | {""})
    versions = [helper.make_opsetid(d, {"": 17, "ai.onnx.ml": 3}.get(d, 1)) for d in domains]
    model = helper.make_model(graph, opset_imports=versions, ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def learned(path: Path) -> Path:
    """Operators of classical learning, as skl2onnx writes them: a class, and its scores."""
    ml = "ai.onnx.ml"
    nodes = [
        helper.make_node("Scaler", ["x"], ["even"], domain=ml, offset=[0.5] * 3, scale=[2.0] * 3),
        helper.make_node(
            "LinearClassifier",
            ["even"],
            ["label", "scores"],
            domain=ml,
            classlabels_ints=[0, 1],
            coefficients=[0.3, -0.7, 0.2, -0.3, 0.7, -0.2],
            intercepts=[0.1, -0.1],
            post_transform="SOFTMAX",
        ),
    ]
    inputs: list[Value] = [("x", FLOAT, ["batch", 3])]
    return saved(
        path, nodes, inputs, [("label", INT64, ["batch"]), ("scores", FLOAT, ["batch", 2])]
    )


def fused(path: Path) -> Path:
    """An operator of Microsoft's own, in front of an Einsum; neither has a name."""
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["a"], domain="com.microsoft", alpha=2.0),
        helper.make_node("Einsum", ["a", "v"], ["y"], equation="bi,ij->bj"),
    ]
    rng = np.random.default_rng(9)
    return saved(
        path,
        nodes,
        [("x", FLOAT, ["batch", 5])],
        [("y", FLOAT, ["batch", 2])],
        w=rng.normal(size=(5, 4)).astype(np.float32),
        v=rng.normal(size=(4, 2)).astype(np.float32),
    )


def lstm(path: Path) -> Path:
    rng = np.random.default_rng(1)
    hidden, size = 4, 3
    return saved(
        path,
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], "lstm", hidden_size=hidden)],
        [("x", FLOAT, ["time", "batch", size])],
        [("y", FLOAT, ["time", 1, "batch", hidden])],
        w=rng.normal(0, 0.4, (1, 4 * hidden, size)).astype(np.float32),
        r=rng.normal(0, 0.4, (1, 4 * hidden, hidden)).astype(np.float32),
    )


def suppression(path: Path) -> Path:
    return saved(
        path,
        [helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["kept"], "nms")],
        [("boxes", FLOAT, [1, "n", 4]), ("scores", FLOAT, [1, 2, "n"])],
        [("kept", INT64, ["m", 3])],
        most=np.array([5], np.int64),
    )


def choice(path: Path) -> Path:
    """Booleans, and a single number, as inputs."""
    return saved(
        path,
        [helper.make_node("Where", ["mask", "x", "other"], ["y"], "where")],
        [("mask", BOOL, ["batch", 3]), ("x", FLOAT, ["batch", 3]), ("other", FLOAT, [])],
        [("y", FLOAT, ["batch", 3])],
    )


def lookup(path: Path) -> Path:
    table = np.random.default_rng(2).normal(size=(7, 4)).astype(np.float32)
    return saved(
        path,
        [helper.make_node("Gather", ["table", "ids"], ["y"], "gather")],
        [("ids", INT64, ["batch", 6])],
        [("y", FLOAT, ["batch", 6, 4])],
        table=table,
    )


def lookup_further_on(path: Path) -> Path:
    """Looks up the place after the one that came, which no limit of the input tells."""
    table = np.random.default_rng(2).normal(size=(7, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Add", ["ids", "one"], ["places"], "next"),
        helper.make_node("Gather", ["table", "places"], ["y"], "gather"),
    ]
    return saved(
        path,
        nodes,
        [("ids", INT64, ["batch", 6])],
        [("y", FLOAT, ["batch", 6, 4])],
        table=table,
        one=np.array(1, np.int64),
    )


def nameless(path: Path) -> Path:
    """A product whose node has no name."""
    weights = np.random.default_rng(3).normal(size=(5, 2)).astype(np.float32)
    return saved(
        path,
        [helper.make_node("Gemm", ["x", "w"], ["y"])],
        [("x", FLOAT, ["batch", 5])],
        [("y", FLOAT, ["batch", 2])],
        w=weights,
    )


def quantised(path: Path) -> Path:
    """Already in integers, by its maker."""
    weights = np.random.default_rng(4).integers(-90, 90, (6, 3)).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], "quantise"),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["wide"], "product"),
        helper.make_node("Cast", ["wide"], ["float"], "cast", to=FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["y"], "scale"),
    ]
    return saved(path, nodes, [("x", FLOAT, ["batch", 6])], [("y", FLOAT, ["batch", 3])], w=weights)


def far_from_zero(path: Path) -> Path:
    """Subtracts a number whose neighbours 32-bit floats do not tell apart."""
    return saved(
        path,
        [helper.make_node("Sub", ["x", "offset"], ["y"], "sub")],
        [("x", DOUBLE, ["batch", 3])],
        [("y", DOUBLE, ["batch", 3])],
        offset=np.array(1.7e9, np.float64),
    )


def fixed_inside(path: Path) -> Path:
    """Says that its batch is free, which a Reshape inside contradicts."""
    return saved(
        path,
        [helper.make_node("Reshape", ["x", "target"], ["y"])],
        [("x", FLOAT, ["batch", 6])],
        [("y", FLOAT, [1, 12])],
        target=np.array([1, 12], np.int64),
    )


def halved_and_doubled(path: Path) -> Path:
    """Takes pictures of even sides only, as detectors take multiples of 32."""
    weights = np.random.default_rng(5).normal(0, 0.3, (3, 3, 2, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["half"], "half", strides=[2, 2]),
        helper.make_node("Resize", ["half", "", "scales"], ["whole"], "double", mode="nearest"),
        helper.make_node("Concat", ["x", "whole"], ["y"], "join", axis=1),
    ]
    return saved(
        path,
        nodes,
        [("x", FLOAT, ["batch", 3, "height", "width"])],
        [("y", FLOAT, ["batch", 6, "height", "width"])],
        w=weights,
        scales=np.array([1, 1, 2, 2], np.float32),
    )


def best_rows(path: Path) -> Path:
    """The eight best of 40 boxes, whose scores have few values: ties all over."""
    rng = np.random.default_rng(6)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["raw"], "boxes"),
        helper.make_node("Reshape", ["raw", "rows"], ["boxes"], "rows"),
        helper.make_node("Slice", ["boxes", "zero", "one", "axis"], ["first"], "first"),
        helper.make_node("Round", ["first"], ["scores"], "round"),
        helper.make_node("Squeeze", ["scores", "axis"], ["flat"], "flat"),
        helper.make_node("TopK", ["flat", "k"], ["best", "which"], "best", axis=1),
        helper.make_node("Unsqueeze", ["which", "axis"], ["index"], "index"),
        helper.make_node("Expand", ["index", "wide"], ["wider"], "wider"),
        helper.make_node("GatherElements", ["boxes", "wider"], ["kept"], "kept", axis=1),
        helper.make_node("Unsqueeze", ["best", "axis"], ["column"], "column"),
        helper.make_node("Concat", ["kept", "column"], ["y"], "list", axis=2),
    ]
    return saved(
        path,
        nodes,
        [("x", FLOAT, [1, 16])],
        [("y", FLOAT, [1, 8, 5])],
        w=rng.normal(0, 0.4, (16, 160)).astype(np.float32),
        rows=np.array([1, 40, 4], np.int64),
        zero=np.array([0], np.int64),
        one=np.array([1], np.int64),
        axis=np.array([2], np.int64),
        k=np.array([8], np.int64),
        wide=np.array([1, 8, 4], np.int64),
    )


def quiet(path: Path) -> Path:
    """Answers zeros unless its input is far above what noise has."""
    weights = np.random.default_rng(7).normal(1, 0.2, (4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["raw"], "conv"),
        helper.make_node("ReduceMean", ["x"], ["mean"], "mean", keepdims=1),
        helper.make_node("Greater", ["mean", "least"], ["loud"], "loud"),
        helper.make_node("Cast", ["loud"], ["gate"], "gate", to=FLOAT),
        helper.make_node("Mul", ["raw", "gate"], ["y"], "gated"),
    ]
    return saved(
        path,
        nodes,
        [("x", FLOAT, [1, 3, 16, 16])],
        [("y", FLOAT, [1, 4, 14, 14])],
        w=weights,
        least=np.array(0.5, np.float32),
    )


def long_only(path: Path) -> Path:
    """Takes rows of twelve values and more."""
    weights = np.random.default_rng(8).normal(0, 0.3, (2, 1, 12)).astype(np.float32)
    return saved(
        path,
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")],
        [("x", FLOAT, ["batch", 1, "length"])],
        [("y", FLOAT, ["batch", 2, "rest"])],
        w=weights,
    )


def settled(path: Path) -> Path:
    """Chooses between two ways by a constant, so that a compiler drops the choice."""
    ways = [
        helper.make_graph(
            [helper.make_node(operator, ["r"], ["inside"], keepdims=1, axes=[1])],
            operator,
            [],
            [helper.make_tensor_value_info("inside", FLOAT, ["batch", 1])],
        )
        for operator in ("ReduceMean", "ReduceMax")
    ]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("If", ["yes"], ["y"], "if", then_branch=ways[0], else_branch=ways[1]),
    ]
    yes = np.array(True)
    return saved(path, nodes, [("x", FLOAT, ["batch", 3])], [("y", FLOAT, ["batch", 1])], yes=yes)


def not_finite(path: Path) -> Path:
    weights = np.ones((5, 2), np.float32)
    weights[3, 1] = np.nan
    return saved(
        path,
        [helper.make_node("Gemm", ["x", "w"], ["y"], "gemm")],
        [("x", FLOAT, ["batch", 5])],
        [("y", FLOAT, ["batch", 2])],
        w=weights,
    )


def answers_infinity(path: Path) -> Path:
    return saved(
        path,
        [helper.make_node("Div", ["x", "zero"], ["y"], "div")],
        [("x", FLOAT, ["batch", 3])],
        [("y", FLOAT, ["batch", 3])],
        zero=np.array(0, np.float32),
    )


def answers_nan_somewhere(path: Path) -> Path:
    """Of each row the last value is no number."""
    return saved(
        path,
        [
            helper.make_node("Mul", ["x", "w"], ["scaled"], "scale"),
            helper.make_node("Div", ["scaled", "w"], ["y"], "divide"),
        ],
        [("x", FLOAT, ["batch", 3])],
        [("y", FLOAT, ["batch", 3])],
        w=np.array([1, 2, 0], np.float32),
    )


def masked_by_infinity(path: Path) -> Path:
    """Adds the mask of a decoder, which is zero and minus infinity, in front of a softmax."""
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["masked"], "mask_later"),
        helper.make_node("Softmax", ["masked"], ["y"], "softmax"),
    ]
    return saved(
        path, nodes, [("x", FLOAT, ["batch", 4, 4])], [("y", FLOAT, ["batch", 4, 4])], mask=mask
    )


def output_called_file(path: Path) -> Path:
    """An output whose name NumPy's own writer of archives cannot take."""
    return saved(
        path,
        [helper.make_node("Identity", ["x"], ["file"], "same")],
        [("x", FLOAT, ["batch", 3])],
        [("file", FLOAT, ["batch", 3])],
    )


def rated(path: Path) -> Path:
    """Takes a rate that must be 8000 or 16000, as networks of speech do: it says how the input is
    cut. A state's second axis is the batch."""
    nodes = [
        helper.make_node("Div", ["sr", "thousand"], ["size"], "size"),
        helper.make_node("Unsqueeze", ["size", "zero"], ["one"], "one"),
        helper.make_node("Concat", ["minus", "one"], ["target"], "target", axis=0),
        helper.make_node("Reshape", ["x", "target"], ["cut"], "cut", allowzero=1),
        helper.make_node("ReduceMean", ["cut"], ["mean"], "mean", keepdims=0),
        helper.make_node("ReduceMean", ["state"], ["means"], "means", axes=[0, 2], keepdims=0),
        helper.make_node("Add", ["mean", "means"], ["y"], "sum"),
    ]
    return saved(
        path,
        nodes,
        [("x", FLOAT, ["batch", 32]), ("state", FLOAT, [2, "batch", 4]), ("sr", INT64, [])],
        [("y", FLOAT, ["batch"])],
        thousand=np.array(1000, np.int64),
        zero=np.array([0], np.int64),
        minus=np.array([-1], np.int64),
    )


def product_of_what_is_not_zero(path: Path) -> Path:
    """A matrix product whose number of rows depends on the values."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"], "which"),
        helper.make_node("Cast", ["places"], ["floats"], "cast", to=FLOAT),
        helper.make_node("Transpose", ["floats"], ["rows"], "turn", perm=[1, 0]),
        helper.make_node("MatMul", ["rows", "w"], ["y"], "product"),
    ]
    weights = np.random.default_rng(8).normal(size=(2, 3)).astype(np.float32)
    return saved(path, nodes, [("x", FLOAT, ["batch", 5])], [("y", FLOAT, ["found", 3])], w=weights)


def unsorted(path: Path) -> Path:
    """Nodes in the reverse of the order that ONNX asks for."""
    saved(
        path,
        [
            helper.make_node("Relu", ["x"], ["positive"], "first"),
            helper.make_node("Neg", ["positive"], ["y"], "second"),
        ],
        [("x", FLOAT, ["batch", 3])],
        [("y", FLOAT, ["batch", 3])],
    )
    model = onnx.load(path)
    nodes = [*model.graph.node][::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path


class Scores(nn.Module):
    """A small classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.drop(self.conv(x).relu().mean((2, 3)) * 9))
        return found


class Centred(Scores):
    """Its scores are relative to the batch's mean."""

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found - found.mean(0, keepdim=True)


class Wide(nn.Module):
    """Computes in 64-bit floats."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x - 1e8)
        return found


class Named(nn.Module):
    """Answers a dictionary with a tuple in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        maps = self.conv(x)
        return {"maps": maps, "mean": maps.mean((1, 2, 3))}


class Defaulted(nn.Module):
    """Takes more than a tensor, if it is given."""

    def forward(self, x: Tensor, times: int = 2, really: bool = True) -> Tensor:
        return x * times if really else x


class Masked(nn.Module):
    """Token numbers and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = (self.table(ids) * mask[..., None].float()).sum(1)
        return found


class Positive(nn.Module):
    """Has no weights and multiplies nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


class OnGpu(nn.Module):
    """Makes a tensor on the GPU that it was written for."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(3, device="cuda:0")


def scripted(path: Path, module: nn.Module) -> Path:
    """As a TorchScript file, its control flow kept."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript as a whole
        torch.jit.save(torch.jit.script(module.eval()), str(path))
    return path


def traced(path: Path, module: nn.Module, *given: Tensor, training: bool = False) -> Path:
    """As a TorchScript file of one call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = torch.jit.trace(module.train(training), given, check_trace=False)
        torch.jit.save(file, str(path))
    return path
