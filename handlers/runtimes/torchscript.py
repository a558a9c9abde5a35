"""TorchScript: the portable runtime, which every TorchServe installation has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.artefact import TorchScriptOptions
from handlers.errors import RuntimeMissing
from handlers.runtimes.base import Runtime


class TorchScript(Runtime):
    """Runs a TorchScript file on the CPU in 32-bit floats."""

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
        self.precision = "f32"
        self.warm_up()

    def infer(
        self, inputs: dict[str, NDArray[Any]], every: bool = False
    ) -> dict[str, NDArray[Any]]:
        with self._torch.inference_mode():
            given = [self._torch.from_numpy(inputs[s.name]) for s in self.inputs]
            result = self._module(*given)
        values = result if isinstance(result, (tuple, list)) else [result]
        return {name: np.asarray(v.numpy()) for name, v in zip(self._names, values, strict=True)}
