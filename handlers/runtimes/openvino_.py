"""OpenVINO on the CPU, in 32-bit floats, bfloat16 or with int8 layers."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from handlers.artefact import OpenVinoOptions
from handlers.errors import RuntimeMissing
from handlers.runtimes.base import Runtime

LABELS = {"f32": "f32", "float": "f32", "float32": "f32", "bf16": "bf16", "bfloat16": "bf16"}
"""OpenVINO's names of the CPU's execution types, and the kit's."""


class OpenVino(Runtime):
    """Runs an OpenVINO IR.

    The execution type is set on purpose: left alone, OpenVINO takes bfloat16 where the CPU has it.
    """

    name = "openvino"
    options_type = OpenVinoOptions
    options: OpenVinoOptions

    def activate(self) -> None:
        try:
            import openvino as ov
        except ImportError as e:
            raise RuntimeMissing("openvino", e) from None
        core = ov.Core()
        hint = self.options.execution_type
        config = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            # Several workers on one machine would all pin themselves to the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        self.compiled = core.compile_model(str(self.folder / self.artefact.files[0]), "CPU", config)
        self._request = self.compiled.create_infer_request()
        self._outputs = [o.get_any_name() for o in self.compiled.outputs]
        self._wanted = self.wanted(self._outputs)
        self.precision = self._found(hint)
        self.warm_up()

    def infer(
        self, inputs: dict[str, NDArray[Any]], every: bool = False
    ) -> dict[str, NDArray[Any]]:
        result = self._request.infer(inputs, share_inputs=True, share_outputs=True)
        names = self._outputs if every else self._wanted
        return {name: result[self._outputs.index(name)] for name in names}

    def _found(self, hint: str) -> str:
        """The precision that the compiled model has; int8 layers keep theirs on every CPU."""
        element = self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        found = LABELS.get(element, str(element))
        if self.artefact.precision_asked == "int8" and found == hint:
            return "int8"
        return found
