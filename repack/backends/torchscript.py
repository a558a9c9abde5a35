"""PyTorch module -> TorchScript file: the portable form, and the reference runtime."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from handlers.errors import KitError
from repack.backends import torchscript_file
from repack.model import Subject

OWN = {"aten", "prim", "prims", "quantized", "mkldnn", "mkldnn_prepacked", "prepacked"}
"""Namespaces of operators that every installation of PyTorch has."""


def convert(subject: Subject, path: Path) -> None:
    """Traces the module (a TorchScript module is taken as it is) and freezes it.

    Raises:
        KitError: the module cannot be traced, or calls an operator that is not PyTorch's own.
    """
    if subject.module is None:
        raise KitError("an ONNX file has no module to trace")
    module = subject.module
    if not isinstance(module, torch.jit.ScriptModule):
        example = subject.random_inputs(seed=1, batch=2)
        given = tuple(torch.from_numpy(example[s.name]) for s in subject.inputs)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                module = torch.jit.trace(module, given, check_trace=False)
            except Exception as e:
                reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
                raise KitError(f"the module cannot be traced ({reason})") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(module.eval()) if hasattr(module, "training") else module
        _refuse_foreign(frozen)
        torchscript_file.save(frozen, path)


def _refuse_foreign(module: torch.jit.ScriptModule) -> None:
    """A worker has no operators but PyTorch's own.

    Raises:
        KitError: the module calls another one.
    """
    waiting = list(module.inlined_graph.nodes())
    while waiting:
        node = waiting.pop()
        space = node.kind().partition("::")[0]
        if space not in OWN:
            raise KitError(
                f"operator {node.kind()} is not PyTorch's own: no worker has it; its ONNX form can "
                "be given by --symbolic FILE.py"
            )
        waiting += [inner for block in node.blocks() for inner in block.nodes()]
