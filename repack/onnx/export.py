"""PyTorch module -> ONNX file."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from handlers.errors import KitError
from repack.inductor_cache import cache_in
from repack.model import Model
from repack.onnx import operators, symbolic

OPSET, SCRIPTED_OPSET = 20, 17

UNKNOWN = (
    re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'"),
    re.compile(r"operator with unrecognized namespace ([\w:]+)"),
    re.compile(r"Exporting the operator '([\w:]+)' to ONNX"),
)
"""How the exporters name an operator that they do not know; the first is the newer one."""


def convert(model: Model, path: Path) -> None:
    """Exports the module by PyTorch's exporter, constants folded, axes named by a word dynamic.

    Where ``Model.export`` is given, that is exported.

    Raises:
        KitError: the exporter does not know something in the model.
    """
    module, outputs = model.module, [s.name for s in model.outputs]
    if model.export is not None:
        module, outputs = model.export.module, list(model.export.outputs)
    if module is None:
        raise KitError("an ONNX file needs no export")
    example = model.random_inputs(seed=1, batch=2)
    given = tuple(torch.from_numpy(example[s.name]) for s in model.inputs)
    scripted = any(isinstance(m, torch.jit.ScriptModule) for m in module.modules())
    export = _export_scripted if scripted else _export
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
            contextlib.redirect_stdout(sys.stderr),
            cache_in(path.parent / "cache"),
        ):
            warnings.simplefilter("ignore")
            calls = export(module, given, model, outputs, path)
    except KitError:
        raise
    except Exception as e:
        raise KitError(f"PyTorch's ONNX exporter does not take this model ({_reason(e)})") from None
    finally:
        noisy.setLevel(level)
    file = onnx.load(path)
    exporter = "TorchScript exporter" if export is _export_scripted else "torch.export exporter"
    operators.save(operators.table(calls, file, exporter), path)
    _drop_traces(file)
    onnx.save(file, path)


def _reason(error: Exception) -> str:
    """The operator that an exporter does not know, or the first line of what it says."""
    text = str(error)
    for pattern in UNKNOWN:
        if found := pattern.search(text):
            return f"it does not know {found[1].replace('.', '::', 1)}: add --symbolic FILE.py"
    return (text.strip().splitlines() or [type(error).__name__])[0]


def _export(
    module: nn.Module,
    given: tuple[Tensor, ...],
    model: Model,
    outputs: list[str],
    path: Path,
) -> list[operators.Call]:
    inputs = model.inputs
    axes = tuple(
        {
            i: torch.export.Dim(n, min=1, max=4096)
            for i, n in enumerate(s.shape)
            if isinstance(n, str)
        }
        for s in inputs
    )
    program = torch.onnx.export(
        module,
        given,
        path,
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=axes,
        input_names=[s.name for s in inputs],
        output_names=outputs,
        external_data=False,
        verbose=False,
        custom_translation_table=symbolic.translations(model.symbolic, OPSET),
    )
    return operators.exported_calls(program.exported_program) if program else []


def _export_scripted(
    module: nn.Module,
    given: tuple[Tensor, ...],
    model: Model,
    outputs: list[str],
    path: Path,
) -> list[operators.Call]:
    """The older exporter: the newer one does not take TorchScript modules."""
    inputs = model.inputs
    if not isinstance(module, torch.jit.ScriptModule):
        module = torch.jit.trace(module, given, check_trace=False)
    axes = {s.name: {i: n for i, n in enumerate(s.shape) if isinstance(n, str)} for s in inputs}
    with symbolic.registered(model.symbolic, SCRIPTED_OPSET), _mute():
        torch.onnx.export(
            module,
            given,
            path,
            dynamo=False,
            opset_version=SCRIPTED_OPSET,
            dynamic_axes=axes,
            input_names=[s.name for s in inputs],
            output_names=outputs,
            verbose=True,  # only then do the nodes carry the place in the code that made them
        )
    return operators.scripted_calls(module)


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """Discards what native code writes to standard output."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _drop_traces(file: onnx.ModelProto) -> None:
    """Removes the exporter's notes: they hold folder names of the machine that exported."""
    del file.metadata_props[:]
    graphs = [file.graph]
    while graphs:
        graph = graphs.pop()
        parts: list[Any] = [graph, *graph.node, *graph.input, *graph.output, *graph.value_info]
        for part in [*parts, *graph.initializer]:
            del part.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            graphs += [a.g for a in node.attribute if a.HasField("g")]
