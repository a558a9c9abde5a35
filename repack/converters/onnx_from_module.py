"""PyTorch module -> ONNX file."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from handlers.errors import KitError
from repack.subjects import Subject

OPSET = 20


def convert(subject: Subject, path: Path) -> None:
    """Exports the module by PyTorch's exporter, constants folded, axes named by a word dynamic.

    Raises:
        KitError: the exporter does not know something in the model.
    """
    if subject.module is None:
        raise KitError("an ONNX file needs no export")
    example = subject.random_inputs(seed=1, batch=2)
    given = tuple(torch.from_numpy(example[s.name]) for s in subject.inputs)
    axes = tuple(
        {
            i: torch.export.Dim(n, min=1, max=4096)
            for i, n in enumerate(s.shape)
            if isinstance(n, str)
        }
        for s in subject.inputs
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        noisy = logging.getLogger("torch.onnx")
        level = noisy.level
        noisy.setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                subject.module,
                given,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=axes,
                input_names=[s.name for s in subject.inputs],
                output_names=[s.name for s in subject.outputs],
                verbose=False,
            )
        except Exception as e:
            reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
            raise KitError(f"PyTorch's ONNX exporter does not take this model ({reason})") from None
        finally:
            noisy.setLevel(level)
    if program is None:
        raise KitError("PyTorch's ONNX exporter gave no program")
    model = program.model_proto
    _drop_traces(model)
    onnx.save(model, path)


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
