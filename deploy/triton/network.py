"""A runtime that asks another model of the same Triton; travels with ``model.py``.

Imported once the archive's own ``handlers`` can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import triton_python_backend_utils as backend
from numpy.typing import NDArray

from handlers.artefact import Artefact
from handlers.runtimes import RUNTIMES
from handlers.runtimes.base import Runtime

Arrays = dict[str, NDArray[Any]]


class Network(Runtime):
    """Stands in place of the archive's runtime, under its name."""

    told: ClassVar[Mapping[str, Any]]
    """What ``deploy.triton.repository`` wrote: "model", "outputs", "pixels", "most", "note"."""

    def __init__(self, folder: Any, artefact: Artefact, *given: Any):
        # The boxes that a graph finds are no rows of a batch: Triton's network ends in raw maps.
        ends = "tensors" if artefact.output == "detections" else artefact.output
        super().__init__(folder, replace(artefact, output=ends), *given)

    def activate(self) -> None:
        """Nothing: Triton may load the network later than this."""
        self.note = self.told["note"]

    def infer(self, inputs: Arrays, every: bool = False) -> Arrays:
        given = {k: _pixels(v) if k in self.told["pixels"] else v for k, v in inputs.items()}
        rows, most = len(next(iter(given.values()))), self.told["most"]
        if not most or rows <= most:
            return self._asked(given)
        parts = [
            self._asked({k: v[at : at + most] for k, v in given.items()})
            for at in range(0, rows, most)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _asked(self, inputs: Arrays) -> Arrays:
        names = self.told["outputs"]
        response = backend.InferenceRequest(
            model_name=self.told["model"],
            inputs=[backend.Tensor(k, np.ascontiguousarray(v)) for k, v in inputs.items()],
            requested_output_names=names,
            preferred_memory=backend.PreferredMemory(backend.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
        if response.has_error():
            raise RuntimeError(f"{self.told['model']}: {response.error().message()}")
        return {
            name: backend.get_output_tensor_by_name(response, name).as_numpy() for name in names
        }


def _pixels(pictures: NDArray[Any]) -> NDArray[np.float32]:
    """uint8 ``[N, H, W, 3]`` as ``[N, 3, H, W]`` in 0..1."""
    found: NDArray[np.float32] = pictures.transpose(0, 3, 1, 2).astype(np.float32)
    found /= 255
    return found


def install(runtime: str, told: Mapping[str, Any]) -> None:
    """Puts ``Network`` into the archive's own table in place of a runtime."""
    Network.name, Network.told = runtime, told
    RUNTIMES[runtime] = f"{__name__}:{Network.__name__}"
