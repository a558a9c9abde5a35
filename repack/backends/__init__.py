"""The backends: one table. What knows a backend by its name, but for its own module, reads it."""

from __future__ import annotations

from handlers.errors import KitError
from repack.backends.aotinductor import AotInductor
from repack.backends.base import Backend
from repack.backends.onnxruntime import OnnxRuntime
from repack.backends.openvino import OpenVino
from repack.backends.tensorrt import TensorRT
from repack.backends.torchscript import TorchScript
from repack.backends.torchscript_cuda import TorchScriptCuda

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        TorchScript(),
        OnnxRuntime(),
        OpenVino(),
        TensorRT(),
        AotInductor(),
        TorchScriptCuda(),
    )
}
"""By name, in the order in which they are tried; the first portable one that takes a model makes
the archive's portable artefact."""

PRECISIONS = ("f32", "f16", "bf16", "int8", "best")
"""All that any backend can be asked for."""

TRT = {0: TorchScript.name, 1: TensorRT.name}
"""What ``--trt`` names."""


def named(name: str) -> Backend:
    """The backend of this name.

    Raises:
        KitError: there is none; the line lists what there is.
    """
    if name not in BACKENDS:
        raise KitError(f"no backend {name!r}; there is {', '.join(BACKENDS)}")
    return BACKENDS[name]


def title(name: str) -> str:
    """A backend's own spelling, for people; a foreign name as it is."""
    return BACKENDS[name].title if name in BACKENDS else name
