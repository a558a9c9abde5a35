"""TensorRT 8 as far as tests without it need it, and networks on their way to its engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from handlers.artefact import Artefact, TensorRTOptions
from repack.backends.tensorrt import onnx_file as onnx_for_engine
from repack.backends.tensorrt.engines import SOURCE, Plan
from repack.model import GpuModel, Model
from repack.options import GpuOptions
from tests.support import built

MACHINE = {"tensorrt": "8.6.0", "gpu": "NVIDIA H200", "compute_capability": "9.0", "cuda": "12"}
SHAPE = ((1, 3, 8, 8),) * 3


class Of8:
    """``tensorrt`` as far as its version is asked for."""

    __version__ = "8.6.0"


def artefact_of(precision: str = "f16", **options: Any) -> Artefact:
    given = {"outputs": ("output",), "built": MACHINE, "engines": ({"x": SHAPE},), "via": "onnx"}
    told = TensorRTOptions(**{**given, "batches": (1, 4), **options})
    return Artefact("tensorrt", ("t/a.plan",), precision, {}, "tensors", told)


def on_its_way(
    folder: Path, precision: str, calibrated: bool
) -> tuple[Model, Plan, Artefact, Path, Path]:
    """A small network, its plan and its engine's record; the folders to work and to stage in."""
    given = built.net()
    work, stage = folder / "work", folder / "stage"
    work.mkdir()
    (stage / "t").mkdir(parents=True)
    form = given.for_gpu()
    onnx_for_engine.convert(form, work / SOURCE)
    inputs = [given.random_inputs(i) for i in range(4)] if calibrated else []
    asked = Plan(form, "onnx", precision, (1, 4), {}, GpuOptions(level=0), inputs)
    return given, asked, artefact_of(precision), work, stage


class Chain(nn.Module):
    """14 convolutions, and a branch after the ninth that ends in a second output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(14))
        self.side = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x * 2
        for layer in self.layers[:9]:
            x = torch.relu(layer(x))
        side = self.side(functional.max_pool2d(x, 2))
        for layer in self.layers[9:]:
            x = torch.relu(layer(x))
        return x.sigmoid(), side


FORM = GpuModel(Chain().eval(), {"x": ("batch", 3, 8, 8)}, {"x": "float32"}, ("a", "b"))
