"""The forms that run on an NVIDIA GPU: which there are here, and how each is built."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from handlers.engines.build import Profiles
from handlers.errors import KitError
from handlers.passport import Artefact
from repack.backends.gpu_model import DeviceForm, device_form
from repack.backends.tensorrt import engines, rebuild
from repack.backends.tensorrt.request import EngineRequest
from repack.cli_gpu import GpuOptions
from repack.model import Arrays, Subject

PRECISIONS = {
    "tensorrt": ("f16", "int8", "best", "f32"),
    "aotinductor": ("f16", "f32"),
    "torchscript-cuda": ("f16", "f32"),
}
"""Backends on a GPU, and the precisions that each is built in; "auto" takes the first, and int8
where there is something to calibrate on."""

AUTO = {"tensorrt": ("f16", "int8"), "aotinductor": ("f16",), "torchscript-cuda": ("f16",)}


def available() -> bool:
    """Whether PyTorch sees an NVIDIA GPU."""
    return torch.cuda.is_available()


def routes(subject: Subject, options: GpuOptions, precision: str) -> list[str]:
    """The roads to an engine, in the order in which they are tried.

    int8 by ONNX only, unless asked for otherwise: the file holds ranges that keep the layers next
    to inputs and outputs as they are.
    """
    if options.via != "auto":
        return [options.via]
    if precision == "int8":
        return ["onnx"]
    if subject.module is not None and find_spec("torch2trt") is not None and options.batches:
        return ["torch2trt", "onnx"]
    return ["onnx"]


class GpuWorkshop:
    """Builds the GPU's forms of one subject."""

    def __init__(
        self,
        subject: Subject,
        graph: Path | None,
        stage: Path,
        calibration: Sequence[Arrays],
        options: GpuOptions,
    ):
        self.subject = subject
        self.stage = stage
        self.calibration = calibration
        self.options = options
        self.form: DeviceForm = device_form(subject, graph)
        fixed = next((s[0] for s in self.form.shapes.values()), "batch")
        self.batches = options.batches if isinstance(fixed, str) else (int(fixed),)

    def build(self, backend: str, via: str, precision: str, folder: str) -> Artefact:
        """Builds one form into ``stage / folder``.

        Raises:
            KitError: no GPU, a library is missing, or the backend does not take the model.
        """
        if backend == "tensorrt":
            work = self.stage / "engine"
            work.mkdir(exist_ok=True)
            asked = EngineRequest(
                self.form, via, precision, self._fixed(), self._profile(), self.options,
                self.calibration,
            )  # fmt: skip
            if not self.options.rebuild_on_load:
                return engines.build(asked, folder, self.stage, work)
            rebuild.refuse(asked)
            made = engines.build(asked, folder, self.stage, work)
            return rebuild.pack(asked, made, self.subject, folder, self.stage, work)
        if not self._fixed():
            raise KitError(f"{backend} is built for fixed sizes: --batch, not --min --opt --max")
        if backend == "aotinductor":
            from repack.backends import aotinductor as aotinductor_from_module

            packages, weights = aotinductor_from_module.convert(
                self.form, precision, self.batches, self.stage / folder
            )
            files = tuple(f"{folder}/{path.name}" for path in packages)
            major, minor = torch.cuda.get_device_capability()
            built = {
                "torch": torch.__version__.split("+")[0],
                "compute_capability": f"{major}.{minor}",
            }
            options = {
                **self.form.options,
                "batches": list(self.batches),
                "built": built,
                "weights": weights,
                "channels_last": True,
            }
            return Artefact("aotinductor", files, precision, {}, "tensors", options)
        from repack.backends import torchscript_cuda as torchscript_cuda_from_module

        file = f"{folder}/model.pt"
        torchscript_cuda_from_module.convert(self.form, precision, self.stage / file)
        options = {**self.form.options, "batches": list(self.batches)}
        return Artefact("torchscript-cuda", (file,), precision, {}, "tensors", options)

    def _fixed(self) -> tuple[int, ...]:
        return () if self.options.least else self.batches

    def _profile(self) -> Profiles:
        least, usual, most = self.options.least, self.options.usual, self.options.most
        if not (least and usual and most):
            return {}
        names = list(self.form.shapes)
        if set(least) == {""} and len(names) == 1:
            least, usual, most = ({names[0]: s[""]} for s in (least, usual, most))
        if set(least) != set(names):
            raise KitError(
                f"--min, --opt, --max name {', '.join(least)}; the model has {', '.join(names)}"
            )
        for name, shape in self.form.shapes.items():
            if len(least[name]) != len(shape):
                raise KitError(f"--min {name}: {len(least[name])} axes; the model's are {shape}")
            for low, high, own in zip(least[name], most[name], shape, strict=True):
                if isinstance(own, int) and not low == high == own:
                    raise KitError(f"--min --max {name}: the model's own shape is {shape}")
        return {name: (least[name], usual[name], most[name]) for name in names}
