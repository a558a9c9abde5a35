"""TorchScript files: the module carries its own code, which runs when the module is called."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import cast

import torch
from torch import nn

from repack.sources import told
from repack.sources.errors import UnreadableFile, UnsupportedLayout, printable
from repack.sources.source import Source, sha256_of


def load(path: Path) -> Source:
    """Any TorchScript file, on the CPU, in evaluation mode, in its own types.

    Raises:
        UnreadableFile: damaged, or it needs operators that this torch does not have.
        UnsupportedLayout: it was traced in training mode, or on a GPU whose name is in its code.
    """
    extra = {CONFIG: b""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole
            loaded = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
            module = cast(nn.Module, loaded)
    except (RuntimeError, ValueError, OSError) as error:
        raise UnreadableFile(
            path,
            f"a TorchScript file that torch {torch.__version__} cannot load ({printable(error)})",
        ) from error
    module.eval()
    _refuse_traces(path, cast(torch.jit.ScriptModule, module))
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    network = str(getattr(module, "original_name", "") or type(module).__name__)
    says = told.of_text(extra[CONFIG])
    return Source(
        module,
        "torchscript",
        network,
        says.names,
        path,
        sha256_of(path),
        says.kit_task,
        told=says,
    )


CONFIG = "config.txt"
"""The extra file in which exporters of detectors and classifiers say what the network is."""


TRAINING = {"aten::batch_norm": 5, "aten::dropout": 2, "aten::feature_dropout": 2}
"""Operators that act otherwise in training, and which of their inputs says so."""


def _refuse_traces(path: Path, module: torch.jit.ScriptModule) -> None:
    """Refuses what a trace has fixed for good and no caller can undo."""
    if not hasattr(module, "inlined_graph"):
        return
    graph = module.inlined_graph  # its nodes live no longer than it does
    nodes = list(graph.nodes())
    trained = [
        node.kind().removeprefix("aten::")
        for node in nodes
        if node.kind() in TRAINING
        and list(node.inputs())[TRAINING[node.kind()]].node().kind() == "prim::Constant"
        and bool(list(node.inputs())[TRAINING[node.kind()]].toIValue())
    ]
    if trained:
        raise UnsupportedLayout(
            path,
            f"traced in training mode ({len(trained)} operators, first {trained[0]}): its answers "
            "are those of training: call eval() and trace it again",
        )
    devices = {
        str(node.output().toIValue())
        for node in nodes
        if node.kind() == "prim::Constant" and node.output().type().kind() == "DeviceObjType"
    }
    foreign = sorted(d for d in devices if d.partition(":")[0] != "cpu")
    if foreign:
        raise UnsupportedLayout(
            path,
            f"its code names the device {', '.join(foreign)}, which no other machine has: trace it "
            "on the CPU",
        )
