"""Small classifiers that the tests share, each made once a run."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from examples.resnet50.make import write
from examples.resnet50.network import ResNet, resnet
from tests.support import made
from tests.support.shared import once

SIDE, CLASSES = 64, 10
FLAGS = ("--task", "classification", "--backend", "onnxruntime", "--precision", "f32")


@cache
def network() -> ResNet:
    """A ResNet of 26 layers, an eighth as wide, for pictures of 64x64 and ten classes."""
    return resnet(depth=26, classes=CLASSES, width=8, side=SIDE)


@once
def resnet_onnx(batch: int = 0) -> Path:
    """``network()`` as ONNX; batch 0 is any."""
    path = made.folder() / f"resnet26_{batch}.onnx"
    write(network(), path, SIDE, batch)
    return path


@once
def labels() -> Path:
    path = made.folder() / "labels.txt"
    path.write_text("".join(f"kind {i}\n" for i in range(CLASSES)))
    return path


@once
def archive() -> Path:
    """``kinds.mar``: ``network()`` for ONNX Runtime, any batch, three classes an answer."""
    store = made.folder() / "classifier"
    flags: list[str | Path] = [
        "--weights",
        resnet_onnx(),
        "--labels",
        labels(),
        "--name",
        "kinds",
        "--top-k",
        "3",
    ]
    made.repacked(*FLAGS, *flags, "--model-store", store)
    return store / "kinds.mar"


@once
def resnet50() -> Path:
    """``resnet50.mar``: of the real size, with random weights, for ONNX Runtime; minutes."""
    source = made.folder() / "resnet50.onnx"
    write(resnet(), source, 224)
    store = made.folder() / "resnet50"
    made.repacked(*FLAGS, "--weights", source, "--name", "resnet50", "--model-store", store)
    source.unlink()
    return store / "resnet50.mar"


def pooled(
    nhwc: bool = False,
    batch: int | str = "batch",
    end: str = "",
    fixed_inside: bool = False,
    channels: int = 3,
    dtype: type[np.floating[Any]] = np.float32,
) -> ModelProto:
    """Mean colour of a 16x16 picture times a matrix: ``[batch, 5]``.

    Args:
        dtype: of input, output and weights.
        end: "Softmax" or "Sigmoid" at the end.
        fixed_inside: the graph itself holds for its batch only.
    """
    matrix = np.random.default_rng(3).normal(0, 2, (channels, 5)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    constants: dict[str, NDArray[Any]] = {
        "matrix": matrix,
        "axes": np.array([1, 2] if nhwc else [2, 3], np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["means"], "pool", keepdims=0),
        helper.make_node("MatMul", ["means", "matrix"], ["logits"], "classify"),
    ]
    last = "logits"
    if fixed_inside:
        constants["shift"] = np.tile(np.linspace(0, 1, 5, dtype=np.float32), (int(batch), 1))
        nodes.append(helper.make_node("Add", [last, "shift"], ["shifted"], "shift_each"))
        last = "shifted"
    if end:
        nodes.append(helper.make_node(end, [last], ["ended"], "end"))
        last = "ended"
    shape = [batch, 16, 16, channels] if nhwc else [batch, channels, 16, 16]
    graph = helper.make_graph(
        nodes,
        "pooled",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(last, kind, [batch, 5])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def saved(path: Path, model: ModelProto) -> Path:
    onnx.save(model, path)
    return path


class Small(ResNet):
    """The class of ``network()``'s state dict, built without arguments."""

    def __init__(self) -> None:
        super().__init__(depth=26, classes=CLASSES, width=8)
