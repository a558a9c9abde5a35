"""TorchScript on an NVIDIA GPU, in 32- or 16-bit floats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from handlers.artefact import DeviceOptions, TorchScriptCudaOptions
from handlers.runtimes.device import DeviceRuntime, Size

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"f32": "float32", "f16": "float16"}


def channels_last(tensor: Tensor) -> Tensor:
    """The same values, laid out with a pixel's or voxel's channels side by side."""
    import torch

    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if tensor.dim() in formats:
        return tensor.contiguous(memory_format=formats[tensor.dim()])
    return tensor


class TorchScriptCuda(DeviceRuntime):
    """Runs a TorchScript file, traced where it is to run."""

    name = "torchscript-cuda"
    options_type: ClassVar[type[DeviceOptions]] = TorchScriptCudaOptions

    def open(self) -> None:
        self.precision = self.artefact.precision_asked
        self._dtype = getattr(self.torch, DTYPES[self.precision])
        if self.precision == "f32":  # cuDNN would round to TF32's 19 bits
            self.torch.backends.cudnn.allow_tf32 = False
        path = str(self.folder / self.artefact.files[0])
        self._module = self.torch.jit.load(path, self.device).eval()

    def model_for(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """What runs these shapes."""
        return self._module

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Size:
        torch = self.torch
        inputs = {}
        for spec in self.inputs:
            floating = spec.name in self.options.pixels or spec.dtype.startswith("float")
            dtype = self._dtype if floating else getattr(torch, spec.dtype)
            tensor = torch.zeros(shapes[spec.name], dtype=dtype, device=self.device)
            if self.options.channels_last:
                tensor = channels_last(tensor)
            inputs[spec.name] = tensor
        size = Size(inputs, {}, self.model_for(shapes))
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            # The profiling executor replaces the graph twice; only then is it what stays.
            for _ in range(3):
                self.call(size)
            self.stream.synchronize()
        return size

    def call(self, size: Size) -> None:
        with self.torch.inference_mode():
            result = size.model(*(size.inputs[s.name] for s in self.inputs))
        values = result if isinstance(result, (tuple, list)) else [result]
        # A graph replays into the tensors of its capture: what was made last is what stays.
        size.outputs = dict(zip(self.options.outputs, values, strict=True))
