"""Archives and small models that the tests share, each made once a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from tests.support import preloaded, shared
from tests.support.shared import once

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "examples" / "pictures"
REPACK = ROOT / "repack" / "model_repack.py"
IMGSZ = 320
folder = shared.folder


def repack(
    *flags: str | Path,
    temporary: Path | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Runs ``model_repack.py`` in a process of its own, with its temporary files in ``temporary``.

    Neither there nor in the home folder may anything be left.

    Args:
        variables: of the environment, besides those of this process.
        fresh: started as a user starts it, not a fork of one that has its packages already.
    """
    room = Path(tempfile.mkdtemp(prefix="room-", dir=folder()))
    home, temporary = room / "home", temporary or room / "temporary"
    for made in (home, temporary):
        made.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(temporary), "HOME": str(home), **variables}
    given = [*map(str, flags)]
    if fresh:
        command = [sys.executable, str(REPACK), *given]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=folder()
        )
    else:
        done = preloaded.run("repack.model_repack", given, environment, folder())
    assert not list(home.iterdir()), "something was left in the home folder"
    for empty in temporary.glob("torchinductor_*"):  # PyTorch's own, where it traced a network
        empty.rmdir()
    assert not list(temporary.iterdir()), "something was left in the temporary folder"
    shutil.rmtree(room)
    return done


def repacked(
    *flags: str | Path,
    variables: Mapping[str, str] = MappingProxyType({}),
    fresh: bool = False,
) -> str:
    """``repack`` that must succeed; returns what it said."""
    done = repack(*flags, variables=variables, fresh=fresh)
    assert done.returncode == 0, done.stderr
    return done.stderr


@once
def detector() -> Path:
    """``fd1.mar``: the shipped detector for ONNX Runtime, TorchScript as its portable form."""
    store = folder() / "detector"
    flags = ["--backend", "onnxruntime", "--precision", "f32", "--imgsz", str(IMGSZ)]
    repacked(*flags, "--samples", PICTURES, "--model-store", store)
    return store / "fd1.mar"


@once
def tensors() -> Path:
    """``tiny.mar``: a small ONNX model, ONNX Runtime only."""
    store = folder() / "tensors"
    flags = ["--backend", "onnxruntime", "--precision", "f32", "--name", "tiny"]
    repacked(*flags, "--weights", tiny_onnx(), "--model-store", store)
    return store / "tiny.mar"


VESSELS = ROOT / "examples" / "vessels"


@once
def vessels() -> Path:
    """``vessels.mar``: the shipped 3-D U-Net for ONNX Runtime; minutes."""
    store = folder() / "vessels"
    repacked(
        "--weights", VESSELS / "unet_vessels.pt", "--network", "examples.vessels.network:Net",
        "--volumes", VESSELS / "volumes.yaml", "--name", "vessels", "--model-store", store,
        "--backend", "onnxruntime", "--precision", "f32",
    )  # fmt: skip
    return store / "vessels.mar"


def vessels_scan(room: Path, shape: tuple[int, int, int] = (64, 128, 128)) -> Path:
    """A scan, of one window's size where no shape is given."""
    from examples.vessels import make_samples

    return make_samples.write(room, 1, shape=shape) / "case00.nii.gz"


class TinyNet(nn.Module):
    """``[N, 3, 8, 8]`` to ``[N, 4, 8, 8]``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(torch.relu(self.first(x)))
        return result


@once
def tiny_torchscript() -> Path:
    """A traced ``TinyNet``."""
    torch.manual_seed(5)
    path = folder() / "tiny.torchscript"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(TinyNet().eval(), torch.zeros(1, 3, 8, 8)), str(path))
    return path


@once
def tiny_onnx() -> Path:
    """Two convolutions: ``x`` ``[batch, 3, 8, 8]`` to ``y`` ``[batch, 4, 8, 8]``."""
    rng = np.random.default_rng(5)
    weights = {
        "first.weight": rng.normal(0, 0.3, (16, 3, 3, 3)),
        "second.weight": rng.normal(0, 0.3, (4, 16, 3, 3)),
    }
    pads = [1, 1, 1, 1]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "first.weight"], ["a"], "first", pads=pads),
            helper.make_node("Relu", ["a"], ["b"], "relu"),
            helper.make_node("Conv", ["b", "second.weight"], ["y"], "second", pads=pads),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder() / "tiny.onnx"
    onnx.save(model, path)
    return path
