"""Small networks, and engines of them, that the GPU's tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handlers import heads
from handlers.artefact import Artefact
from handlers.runtimes import make
from handlers.runtimes.base import Runtime
from handlers.runtimes.device import DeviceRuntime
from repack import backends
from repack.backends.conversion import Conversion
from repack.gate import GateResult, Reference, check
from repack.model import Arrays, Model
from repack.options import GpuOptions, Shape
from repack.raw_tensors import tensors
from repack.sources import Source

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "examples" / "pictures"
SIDE = 32


class Net(nn.Module):
    """``[N, 3, H, W]`` to ``[N, 64, H, W]``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 64, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(torch.relu(self.first(x)))
        return result


class Volume(nn.Module):
    """``[N, 1, D, H, W]`` to ``[N, 16, D, H, W]``, through an InstanceNorm of its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 8, 3, padding=1)
        self.norm = nn.InstanceNorm3d(8, affine=True)
        self.second = nn.Conv3d(8, 16, 3, padding=1)
        with torch.no_grad():
            self.norm.weight.copy_(torch.linspace(0.3, 3, 8))
            self.norm.bias.copy_(torch.linspace(-1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(torch.relu(self.norm(self.first(x))))
        return result


def model(module: type[nn.Module], *shape: int | str) -> Model:
    """A network of fixed weights, on its way into an archive."""
    torch.manual_seed(5)
    net = module().eval().requires_grad_(False)
    source = Source(net, "state_dict", module.__name__, (), Path("none.pt"), "0" * 64, "tensors")
    return tensors(source, {"x": shape})


def net() -> Model:
    return model(Net, "batch", 3, SIDE, SIDE)


def options(engines: Path, **changed: Any) -> GpuOptions:
    """Fast builds, kept for the next test."""
    given = {"batches": (1, 4), "level": 0, "via": "onnx", **changed}
    return GpuOptions(engine_cache=engines, **given)


@dataclass(frozen=True)
class Asked:
    """What to build: of which network, with which options."""

    model: Model
    options: GpuOptions
    precision: str = "f16"
    calibration: Sequence[Arrays] = ()


def flexible() -> Model:
    """The network with free height and width."""
    return model(Net, "batch", 3, "height", "width")


def volume() -> Model:
    return model(Volume, "batch", 1, 16, 16, 16)


LEAST: dict[str, Shape] = {"": (1, 3, 16, 16)}
USUAL: dict[str, Shape] = {"": (2, 3, 24, 24)}
MOST: dict[str, Shape] = {"": (4, 3, 32, 32)}


def asked(name: str, engines: Path) -> Asked:
    """The engines that the tests share, by name."""
    one = options(engines, batches=(1,))
    by_torch2trt = replace(one, via="torch2trt")
    shapes = replace(one, batches=(), min=LEAST, opt=USUAL, max=MOST)
    inputs = [net().random_inputs(seed) for seed in range(40, 48)] if name == "int8" else []
    return {
        "f16": lambda: Asked(net(), options(engines)),
        "f32": lambda: Asked(net(), one, "f32"),
        "best": lambda: Asked(net(), one, "best"),
        "int8": lambda: Asked(net(), one, "int8", inputs),
        "flexible": lambda: Asked(flexible(), shapes),
        "torch2trt": lambda: Asked(net(), by_torch2trt),
        "volume": lambda: Asked(volume(), one),
        "volume by torch2trt": lambda: Asked(volume(), by_torch2trt),
    }[name]()


NAMES = ("f16", "f32", "best", "int8", "flexible", "torch2trt", "volume", "volume by torch2trt")


def start(engines: Path) -> list[subprocess.Popen[bytes]]:
    """Builds the shared engines side by side, each in a process of its own, into the cache.

    One that fails is left to the test that wants it.
    """
    quiet = subprocess.DEVNULL
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.built", name, str(engines)],
            cwd=ROOT,
            stdout=quiet,
            stderr=quiet,
        )
        for name in NAMES
    ]


@dataclass(frozen=True)
class Built:
    """An artefact of a model, loaded."""

    model: Model
    artefact: Artefact
    stage: Path
    runtime: DeviceRuntime


def artefact(wanted: Asked, stage: Path, backend: str = "tensorrt") -> Artefact:
    """Builds one artefact, or finds its engines in the cache."""
    given, options = wanted.model, wanted.options
    folder = f"{backend}-{options.via}-{wanted.precision}"
    (stage / folder).mkdir(parents=True)
    conversion = Conversion(given, stage, wanted.calibration, options)
    return backends.named(backend).build(conversion, wanted.precision, options.via, folder)


def build(wanted: Asked, stage: Path, backend: str = "tensorrt") -> Built:
    """Builds and loads one artefact."""
    made, given = artefact(wanted, stage, backend), wanted.model
    runtime = make(stage, given.inputs, made, 1, head=heads.of(given.settings))
    runtime.activate()
    assert isinstance(runtime, DeviceRuntime)
    return Built(given, made, stage, runtime)


def gated(made: Built, precision: str, drawn: Model | None = None) -> GateResult:
    """What the gate says of an artefact that was asked for in a precision.

    Args:
        drawn: the model that inputs are drawn for, where that is not the artefact's own.
    """
    given = drawn or made.model
    backend, reference = backends.named(made.runtime.name), Reference.make(given, [])
    return check(given, backend, made.runtime, precision, reference)


def found(runtime: Runtime) -> dict[str, Any]:
    """What runs in which type, as the passport has it."""
    return backends.named(runtime.name).found(runtime).report(runtime)


def relative_l2(want: Any, have: Any) -> float:
    """``|have - want| / |want|``."""
    assert want.shape == have.shape
    wide = want.astype(np.float64)
    return float(np.linalg.norm(have - wide) / np.linalg.norm(wide))


RUN = """
import logging, runpy, sys
logging.basicConfig(stream=sys.stderr, level=logging.INFO)
for name in sys.argv[3:]:
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
del sys.argv[3:]
runpy.run_module("handlers.selfcheck", run_name="__main__")
"""


def answered(
    folder: Path, sample: Path, *blocked: str, **environment: str
) -> tuple[dict[str, Any], str]:
    """An unpacked archive's report on one input, and its log, from a clean process.

    Args:
        blocked: packages that the process cannot import.
        environment: variables to set.
    """
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), str(sample), *blocked],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **environment},
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    assert last.startswith("{"), done.stderr
    return json.loads(last), done.stderr


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as tmp:
        artefact(asked(sys.argv[1], Path(sys.argv[2])), Path(tmp))
