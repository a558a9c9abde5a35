"""TorchScript: the portable runtime, which every TorchServe installation has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.artefact import TorchScriptOptions
from handlers.errors import RuntimeMissing
from handlers.runtimes.base import Runtime


def flatten(answer: Any, name: str = "output") -> dict[str, Any]:
    """What a module returns, by name: a tensor is ``output``, several are ``output_0``, ...; those
    of a dictionary have its keys, and what lies inside these is named after both, ``boxes.0``.

    Raises:
        TypeError: something in it is no tensor.
    """
    top = name == "output"
    if hasattr(answer, "numpy"):
        return {name: answer}
    parts: list[tuple[str, Any]] = []
    if isinstance(answer, dict):
        parts = [(str(k) if top else f"{name}.{k}", v) for k, v in answer.items()]
    elif isinstance(answer, (list, tuple)) and len(answer) == 1 and top:
        return flatten(answer[0], name)
    elif isinstance(answer, (list, tuple)):
        parts = [(f"{name}_{i}" if top else f"{name}.{i}", v) for i, v in enumerate(answer)]
    else:
        raise TypeError(f"{name} is {type(answer).__name__}")
    found: dict[str, Any] = {}
    for part, value in parts:
        found |= flatten(value, part)
    return found


class TorchScript(Runtime):
    """Runs a TorchScript file on the CPU in the types of its weights."""

    name = "torchscript"
    options_type = TorchScriptOptions
    options: TorchScriptOptions

    def activate(self) -> None:
        try:
            import torch
        except ImportError as e:
            raise RuntimeMissing("torch", e) from None
        self._torch = torch
        torch.set_num_threads(self.threads)
        self._module = torch.jit.load(str(self.folder / self.artefact.files[0]), "cpu").eval()
        self._names = self.options.outputs
        self.warm_up()

    def infer(
        self, inputs: dict[str, NDArray[Any]], every: bool = False
    ) -> dict[str, NDArray[Any]]:
        with self._torch.inference_mode():
            given = [self._torch.from_numpy(inputs[s.name]) for s in self.inputs]
            result = self._module(*given)
        values = flatten(result).values()
        return {name: np.asarray(v.numpy()) for name, v in zip(self._names, values, strict=True)}
