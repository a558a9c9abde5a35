"""PyTorch module -> ONNX file."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from torch import Tensor, nn

from handlers.errors import KitError
from repack.subjects import Subject

OPSET, SCRIPTED_OPSET = 20, 17


def convert(subject: Subject, path: Path) -> None:
    """Exports the module by PyTorch's exporter, constants folded, axes named by a word dynamic.

    Raises:
        KitError: the exporter does not know something in the model.
    """
    if subject.module is None:
        raise KitError("an ONNX file needs no export")
    example = subject.random_inputs(seed=1, batch=2)
    given = tuple(torch.from_numpy(example[s.name]) for s in subject.inputs)
    scripted = isinstance(subject.module, torch.jit.ScriptModule)
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            (_export_scripted if scripted else _export)(subject, given, path)
    except Exception as e:
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise KitError(f"PyTorch's ONNX exporter does not take this model ({reason})") from None
    finally:
        noisy.setLevel(level)
    model = onnx.load(path)
    _drop_traces(model)
    onnx.save(model, path)


def _export(subject: Subject, given: tuple[Tensor, ...], path: Path) -> None:
    axes = tuple(
        {
            i: torch.export.Dim(n, min=1, max=4096)
            for i, n in enumerate(s.shape)
            if isinstance(n, str)
        }
        for s in subject.inputs
    )
    torch.onnx.export(
        cast(nn.Module, subject.module),
        given,
        path,
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=axes,
        input_names=[s.name for s in subject.inputs],
        output_names=[s.name for s in subject.outputs],
        external_data=False,
        verbose=False,
    )


def _export_scripted(subject: Subject, given: tuple[Tensor, ...], path: Path) -> None:
    """The older exporter: the newer one does not take TorchScript modules."""
    axes = {
        s.name: {i: n for i, n in enumerate(s.shape) if isinstance(n, str)} for s in subject.inputs
    }
    torch.onnx.export(
        cast(nn.Module, subject.module),
        given,
        path,
        dynamo=False,
        opset_version=SCRIPTED_OPSET,
        dynamic_axes=axes,
        input_names=[s.name for s in subject.inputs],
        output_names=[s.name for s in subject.outputs],
    )


def _drop_traces(model: onnx.ModelProto) -> None:
    """Removes the exporter's notes: they hold folder names of the machine that exported."""
    graph = model.graph
    parts: list[Any] = [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info]
    for part in parts:
        del part.metadata_props[:]
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
