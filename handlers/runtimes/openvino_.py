"""OpenVINO on the CPU, in 32-bit floats, bfloat16 or with int8 layers."""

from __future__ import annotations

import os
from typing import Any

from numpy.typing import NDArray

from handlers.artefact import OpenVinoOptions
from handlers.errors import RuntimeMissing
from handlers.runtimes.base import Runtime

CAPABILITIES = {"f32": "FP32", "f16": "FP16", "bf16": "BF16", "int8": "INT8"}
"""The kit's precisions, as OpenVINO's list of what a CPU has names them."""

TYPES = {"i8": "int8", "u8": "int8"}
"""Element types of OpenVINO that the kit calls otherwise."""

HEAVY = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
"""Layers of a compiled model whose multiplications make up a network's cost."""

CEILINGS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""oneDNN's environment variables that keep its kernels from newer instructions; the first wins."""

WITHOUT_BF16 = {
    "sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni",
}  # fmt: skip
"""Their values, in small letters, under which no kernel of bfloat16 is left."""


def lacks(precision: str) -> str | None:
    """Why OpenVINO cannot really run a precision on this CPU, or None where it can.

    OpenVINO takes every hint: where the CPU lacks bfloat16 it emulates it, or fails while it
    compiles. Its list of what the CPU has does not follow ``ONEDNN_MAX_CPU_ISA``, but its kernels
    do (benchmarks/results/isa.md: 2.4 times as slow as f32 under AVX512_CORE, no model at all under
    AVX2), so both are asked.

    Args:
        precision: "f32", "f16", "bf16" or "int8".

    Raises:
        RuntimeMissing: OpenVINO is not installed.
    """
    try:
        import openvino as ov
    except ImportError as e:
        raise RuntimeMissing("openvino", e) from None
    has = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if CAPABILITIES.get(precision, precision) not in has:
        named = ", ".join(name for name in CAPABILITIES.values() if name in has)
        return f"this CPU has no {precision} (OpenVINO names {named})"
    variable = next((v for v in CEILINGS if os.environ.get(v)), "")
    ceiling = os.environ.get(variable, "")
    if precision == "bf16" and ceiling.lower() in WITHOUT_BF16:
        return f"{variable}={ceiling} leaves this CPU no bf16"
    return None


class OpenVino(Runtime):
    """Runs an OpenVINO IR.

    The execution type is set on purpose: left alone, OpenVINO takes bfloat16 where the CPU has it.
    One that this CPU lacks becomes f32, and ``note`` says so.
    """

    name = "openvino"
    options_type = OpenVinoOptions
    options: OpenVinoOptions

    def activate(self) -> None:
        hint = self.options.execution_type
        if why := lacks(hint):
            asked = self.artefact.precision_asked
            packed = asked if asked == hint else f"{asked} with {hint} beside it"
            self.note = f"packed as {packed}, but {why}: {hint} becomes f32"
            hint = "f32"
        import openvino as ov

        config = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            # Several workers on one machine would all pin themselves to the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        core = ov.Core()
        model = core.read_model(str(self.folder / self.artefact.files[0]))
        self.compiled = core.compile_model(model, "CPU", config)
        self._request = self.compiled.create_infer_request()
        # Those of the file: what is folded while compiling adds its own names to an output's.
        self._outputs = [o.get_any_name() for o in model.outputs]
        self._wanted = self.wanted(self._outputs)
        self.precision = self._found()
        self.warm_up()

    def infer(
        self, inputs: dict[str, NDArray[Any]], every: bool = False
    ) -> dict[str, NDArray[Any]]:
        result = self._request.infer(inputs, share_inputs=True, share_outputs=True)
        names = self._outputs if every else self._wanted
        return {name: result[self._outputs.index(name)] for name in names}

    def _found(self) -> str:
        """The type that the compiled model's heavy layers run in: int8 where any does, else that of
        the hint; where none does, the type of most of them."""
        element = self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        about = [op.get_rt_info() for op in self.compiled.get_runtime_model().get_ops()]
        ran = [
            str(info["runtimePrecision"].value)
            for info in about
            if str(info["layerType"].value) in HEAVY
        ]
        found = [TYPES.get(kind, kind) for kind in ran]
        for label in ("int8", element):
            if label in found:
                return label
        return max(found, key=found.count, default=element)
