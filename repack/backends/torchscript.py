"""TorchScript: the artefact that every installation of TorchServe can run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.artefact import Artefact, TorchScriptOptions
from handlers.errors import KitError
from repack.backends.base import NO_MODULE, Backend, Found, refuse_without_module
from repack.element_types import NAMES

if TYPE_CHECKING:
    import torch

    from handlers.runtimes.base import Runtime
    from repack.backends.conversion import Conversion
    from repack.model import Model

OWN = {"aten", "prim", "prims", "quantized", "mkldnn", "mkldnn_prepacked", "prepacked"}
"""Namespaces of operators that every installation of PyTorch has."""


class TorchScript(Backend):
    """A traced and frozen module, in 32-bit floats on the CPU."""

    name = "torchscript"
    title = "TorchScript"
    packages = ("torch",)
    precisions = auto = ("f32",)
    portable = True

    def takes(self, model: Model) -> str | None:
        return NO_MODULE if model.module is None else None

    def build(self, given: Conversion, precision: str, via: str, folder: str) -> Artefact:
        file = f"{folder}/model.pt"
        convert(given.model, given.stage / file)
        names = tuple(s.name for s in given.model.outputs)
        options = TorchScriptOptions(outputs=names)
        return Artefact(self.name, (file,), precision, {}, given.model.output, options)

    def found(self, runtime: Runtime) -> Found:
        return weights_of(runtime)


def weights_of(runtime: Runtime) -> Found:
    """TorchScript runs each layer in the type of its weights: counted by their number of values."""
    import torch

    module = torch.jit.load(str(runtime.folder / runtime.artefact.files[0]), "cpu")
    found = Found()
    constants = [
        node.t("value")
        for node in module.inlined_graph.nodes()
        if node.kind() == "prim::Constant"
        and node.hasAttribute("value")
        and node.kindOf("value") == "t"
    ]
    for value in [*constants, *module.parameters()]:
        if value.dim() >= 2 and value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            found.add(NAMES.get(kind, kind), value.numel())
    return found.named()


def convert(model: Model, path: Path) -> None:
    """Traces the module (a TorchScript module is taken as it is) and freezes it.

    Raises:
        KitError: the module cannot be traced, or calls an operator that is not PyTorch's own.
    """
    import torch

    from repack.backends import torchscript_file

    refuse_without_module(model)
    module: Any = model.module
    if not isinstance(module, torch.jit.ScriptModule):
        example = model.random_inputs(seed=1, batch=2)
        given = tuple(torch.from_numpy(example[s.name]) for s in model.inputs)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                module = torch.jit.trace(module, given, check_trace=False)
            except Exception as e:
                reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
                raise KitError(f"the module cannot be traced ({reason})") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = module
        if hasattr(module, "training") and not _defaulted(module):
            frozen = torch.jit.freeze(module.eval())
        _refuse_foreign(frozen)
        torchscript_file.save(frozen, path)


def _defaulted(module: torch.jit.ScriptModule) -> bool:
    """Whether arguments may be left out: freezing would make them the graph's inputs."""
    forward: Any = module.forward
    return any(a.has_default_value() for a in forward.schema.arguments)


def _refuse_foreign(module: torch.jit.ScriptModule) -> None:
    """A worker has no operators but PyTorch's own.

    Raises:
        KitError: the module calls another one.
    """
    graph = module.inlined_graph  # its nodes live no longer than it does
    waiting = list(graph.nodes())
    while waiting:
        node = waiting.pop()
        space = node.kind().partition("::")[0]
        if space not in OWN:
            raise KitError(
                f"operator {node.kind()} is not PyTorch's own: no worker has it; its ONNX form can "
                "be given by --symbolic FILE.py"
            )
        waiting += [inner for block in node.blocks() for inner in block.nodes()]
