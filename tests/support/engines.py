"""What tests of TensorRT engines share: a network, requests for its engines, a TensorRT 8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from handlers.artefact import Artefact, TensorRTOptions
from repack.backends.tensorrt import onnx_file
from repack.backends.tensorrt.request import EngineRequest
from repack.model import GpuModel, Model
from repack.options import GpuOptions
from tests.support import built

MACHINE = {"tensorrt": "8.6.0", "gpu": "NVIDIA H200", "compute_capability": "9.0", "cuda": "12"}
SHAPE = ((1, 3, 8, 8),) * 3


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


CHAIN = GpuModel(Chain().eval(), {"x": ("batch", 3, 8, 8)}, {"x": "float32"}, ("a", "b"))


class Of8:
    """``tensorrt`` 8.6 as far as it is asked what it can do."""

    __version__ = "8.6.0"
    NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)


@dataclass(frozen=True)
class OnItsWay:
    """A small network whose engine was asked for.

    Attributes:
        artefact: what is recorded of the engine.
        work: holds its ONNX file.
        stage: where the archive's files go; the engine's folder is ``t``.
    """

    model: Model
    request: EngineRequest
    artefact: Artefact
    work: Path
    stage: Path


def on_its_way(folder: Path, precision: str, model: Model | None = None) -> OnItsWay:
    """For batches of 1 and 4; int8 has inputs to calibrate on."""
    model = model or built.net()
    work, stage = folder / "work", folder / "stage"
    work.mkdir()
    (stage / "t").mkdir(parents=True)
    gpu_model = model.for_gpu()
    onnx_file.convert(gpu_model, work / onnx_file.SOURCE, work / onnx_file.PLUGINS)
    inputs = [model.random_inputs(i) for i in range(4)] if precision == "int8" else []
    options = GpuOptions(level=0, engine_cache=folder / "cache")
    request = EngineRequest(gpu_model, "onnx", precision, (1, 4), {}, options, inputs)
    return OnItsWay(model, request, artefact(precision), work, stage)


def artefact(precision: str = "f16", **options: Any) -> Artefact:
    """One of engines for batches of 1 and 4."""
    given = {"outputs": ("output",), "built": MACHINE, "engines": ({"x": SHAPE},), "via": "onnx"}
    told = TensorRTOptions(**{**given, "batches": (1, 4), **options})
    return Artefact("tensorrt", ("t/a.plan",), precision, {}, "tensors", told)
