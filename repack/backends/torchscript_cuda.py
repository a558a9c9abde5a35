"""TorchScript on an NVIDIA GPU, in 32- or 16-bit floats."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from handlers.artefact import Artefact, TorchScriptCudaOptions
from handlers.errors import KitError, RuntimeUnfit
from repack.backends.base import NO_MODULE, Backend, Found, gpu_missing
from repack.backends.torchscript import weights_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from handlers.runtimes.base import Runtime
    from repack.backends.conversion import Conversion
    from repack.model import GpuModel, Model

ONE_SIZE = "is built for fixed sizes: --batch, not --min --opt --max"


class TorchScriptCuda(Backend):
    """A module traced where it is to run."""

    name = "torchscript-cuda"
    title = "TorchScript on CUDA"
    packages = ("torch", "torchvision")
    device = "gpu"
    precisions = ("f16", "f32")
    auto = ("f16",)

    def unavailable(self) -> str | None:
        return gpu_missing(self.title)

    def takes(self, model: Model) -> str | None:
        return NO_MODULE if model.module is None else None

    def build(self, given: Conversion, precision: str, via: str, folder: str) -> Artefact:
        if not given.batches:
            raise KitError(f"{self.name} {ONE_SIZE}")
        model, file = given.gpu_model, f"{folder}/model.pt"
        convert(model, precision, given.stage / file)
        options = TorchScriptCudaOptions(
            outputs=model.outputs,
            batches=given.batches,
            pixels=model.pixels,
            channels_last=model.channels_last,
        )
        return Artefact(self.name, (file,), precision, {}, model.output, options)

    def found(self, runtime: Runtime) -> Found:
        return weights_of(runtime)


def prepared(
    model: GpuModel, precision: str, batch: int, last: bool
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module and an example input on the GPU, in the precision.

    Args:
        last: whether inputs and weights lie channels last, as cuDNN reads them fastest.

    Raises:
        RuntimeUnfit: no GPU.
        KitError: there is no module, or an axis besides the batch is free.
    """
    import torch

    from handlers.runtimes.torchscript_cuda import DTYPES, channels_last

    if model.module is None:
        raise KitError(NO_MODULE)
    if not torch.cuda.is_available():
        raise RuntimeUnfit("no NVIDIA GPU that PyTorch can use")
    dtype = getattr(torch, DTYPES[precision])
    try:
        shapes = model.sized(batch)
    except ValueError as e:
        raise KitError(f"{e}: an axis besides the batch is of any length") from None
    module = copy.deepcopy(model.module).cuda().to(dtype).requires_grad_(False)
    given = []
    for name, shape in shapes.items():
        floating = model.dtypes[name].startswith("float")
        value = torch.rand(shape, device="cuda") if floating else torch.zeros(shape, device="cuda")
        value = value.to(dtype if floating else getattr(torch, model.dtypes[name]))
        given.append(channels_last(value) if last else value)
    if last:
        for weights in module.parameters():
            weights.data = channels_last(weights.data)
    return module.eval(), tuple(given)


def convert(model: GpuModel, precision: str, path: Path) -> None:
    """Traces and freezes the module on the GPU.

    Raises:
        KitError: no GPU, or the module cannot be traced.
    """
    import torch

    from repack.backends import torchscript_file

    if isinstance(model.module, torch.jit.ScriptModule) and precision != "f32":
        raise KitError("a TorchScript file keeps its own types: --precision f32")
    module, given = prepared(model, precision, 2, model.channels_last)
    with (
        warnings.catch_warnings(),
        torch.no_grad(),
        # A traced convolution keeps for good whether cuDNN may round its inputs to TF32's 19 bits.
        torch.backends.cudnn.flags(enabled=True, allow_tf32=precision != "f32"),
    ):
        warnings.simplefilter("ignore")
        try:
            traced = torch.jit.trace(module, given, check_trace=False)
        except Exception as e:
            reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
            raise KitError(f"the module cannot be traced on the GPU ({reason})") from None
        torchscript_file.save(torch.jit.freeze(traced.eval()), path)
