"""A small PyTorch module behind an ONNX graph, in place of what the graph answered."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import compose, version_converter
from torch import nn

from handlers.errors import KitError
from repack.onnx import nodes

OLDEST, NEWEST = 11, 20
"""Versions of ONNX's operators: what suppression needs, and what PyTorch's exporter writes."""

PREFIX = "end_"


def append(
    model: onnx.ModelProto,
    module: nn.Module,
    outputs: Sequence[NDArray[Any]],
    names: Sequence[str],
    free: bool,
) -> onnx.ModelProto:
    """The model with the module's outputs, called ``names``, as its own.

    Args:
        module: takes the model's outputs, in their order.
        outputs: what the model answers to one batch, as an example.
        free: whether the first axis is of any length.

    Raises:
        KitError: operators of a version that is too old.
    """
    opset = nodes.opset(model)
    if opset < OLDEST:
        raise KitError(f"its operators are of version {opset}: export it with {OLDEST} or later")
    given = [f"given_{i}" for i in range(len(outputs))]
    axes = {n: {0: "batch"} for n in (*given, *names)} if free else None
    with tempfile.TemporaryDirectory(prefix="repack-") as tmp, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(tmp) / "end.onnx"
        torch.onnx.export(
            module.eval(),
            tuple(torch.from_numpy(np.array(value)) for value in outputs),
            path,
            dynamo=False,
            opset_version=min(opset, NEWEST),
            input_names=given,
            output_names=list(names),
            dynamic_axes=axes,
        )
        end = onnx.load(path)
    if opset > NEWEST:
        end = version_converter.convert_version(end, opset)
    end = compose.add_prefix(end, PREFIX, rename_outputs=False, rename_inputs=False)
    end.ir_version = model.ir_version
    del end.opset_import[:]
    end.opset_import.extend(model.opset_import)
    if set(names) & {n for node in model.graph.node for n in node.output}:
        model = compose.add_prefix(model, "net_", rename_inputs=False)
    answers = [o.name for o in model.graph.output]
    pairs = list(zip(answers, given, strict=True))
    whole = compose.merge_models(model, end, io_map=pairs, outputs=list(names))
    del whole.opset_import[:]  # of both, each domain twice
    whole.opset_import.extend(model.opset_import)
    return whole
