"""TorchScript files: they say nothing of the machine that made them, and still run."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deploy.torchserve.settings import ROOT
from repack.backends import torchscript_file

NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        return self.b(self.a(x).relu() * x.mean())
"""

MAKE = """
import sys
from pathlib import Path
import torch
from network import Net
from repack.backends import torchscript
from repack.sources.source import Source
from repack.raw_tensors import tensors
torch.manual_seed(0)
source = Source(Net(), "state_dict", "Net", (), Path("net.pt"), "", "tensors")
given = tensors(source, {"x": ("batch", 3, 8, 8)})
torchscript.convert(given, Path(sys.argv[1]))
"""


def made_in(folder: Path) -> bytes:
    """The file that a checkout in this folder makes of a network of its own."""
    for name in ("handlers", "repack"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    (folder / "network.py").write_text(NETWORK)
    command = [sys.executable, "-c", MAKE, str(folder / "made.pt")]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "made.pt").read_bytes()


def test_two_checkouts_make_the_same_bytes(tmp_path: Path) -> None:
    one, two = made_in(tmp_path / "one"), made_in(tmp_path / "a longer name" / "two")
    assert one == two
    with zipfile.ZipFile(io.BytesIO(one)) as z:
        assert not [n for n in z.namelist() if n.endswith(torchscript_file.TRACES)]
        assert not [n for n in z.namelist() if str(tmp_path).encode() in z.read(n)]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.GELU])
def test_only_stack_traces_are_left_out(
    tmp_path: Path, activation: Callable[[], torch.nn.Module]
) -> None:
    """GELU is an operator of a newer format, which keeps its version elsewhere."""
    given = torch.rand(2, 3, 8, 8)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), activation()).eval()
    traced = torch.jit.freeze(torch.jit.trace(net, given))
    whole, path = io.BytesIO(), tmp_path / "net.pt"
    torch.jit.save(traced, whole)
    torchscript_file.save(traced, path)
    with zipfile.ZipFile(whole) as before, zipfile.ZipFile(path) as after:
        gone = set(before.namelist()) - set(after.namelist())
        assert gone
        assert all(name.endswith(torchscript_file.TRACES) for name in gone)
        for name in after.namelist():
            assert name.endswith("serialization_id") or after.read(name) == before.read(name)
        weights = [i for i in after.infolist() if "/constants/" in i.filename]
        assert weights
    reader: Any = torch._C.PyTorchFileReader(str(path))
    assert all(reader.get_record_offset(f"constants/{i}") % 64 == 0 for i in range(len(weights)))
    loaded = torch.jit.load(path)
    with torch.inference_mode():
        np.testing.assert_array_equal(loaded(given).numpy(), traced(given).numpy())
