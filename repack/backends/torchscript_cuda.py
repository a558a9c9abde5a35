"""PyTorch module -> TorchScript file for an NVIDIA GPU, in 32- or 16-bit floats."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from handlers.errors import KitError, RuntimeUnfit
from handlers.runtimes.torchscript_cuda import DTYPES, channels_last
from repack.backends import torchscript_file
from repack.backends.gpu_model import DeviceForm, sized


def prepared(
    form: DeviceForm, precision: str, batch: int, last: bool
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module and an example input on the GPU, in the precision.

    Args:
        last: whether inputs and weights lie channels last, as cuDNN reads them fastest.

    Raises:
        RuntimeUnfit: no GPU.
        KitError: there is no module, or an axis besides the batch is free.
    """
    if form.module is None:
        raise KitError("an ONNX file has no module to trace")
    if not torch.cuda.is_available():
        raise RuntimeUnfit("no NVIDIA GPU that PyTorch can use")
    dtype = getattr(torch, DTYPES[precision])
    try:
        shapes = sized(form.shapes, batch)
    except ValueError as e:
        raise KitError(f"{e}: an axis besides the batch is of any length") from None
    module = copy.deepcopy(form.module).cuda().to(dtype).requires_grad_(False)
    given = []
    for name, shape in shapes.items():
        floating = form.dtypes[name].startswith("float")
        value = torch.rand(shape, device="cuda") if floating else torch.zeros(shape, device="cuda")
        value = value.to(dtype if floating else getattr(torch, form.dtypes[name]))
        given.append(channels_last(value) if last else value)
    if last:
        for weights in module.parameters():
            weights.data = channels_last(weights.data)
    return module.eval(), tuple(given)


def convert(form: DeviceForm, precision: str, path: Path) -> None:
    """Traces and freezes the module on the GPU.

    Raises:
        KitError: no GPU, or the module cannot be traced.
    """
    if isinstance(form.module, torch.jit.ScriptModule) and precision != "f32":
        raise KitError("a TorchScript file keeps its own types: --precision f32")
    module, given = prepared(form, precision, 2, form.channels_last)
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
