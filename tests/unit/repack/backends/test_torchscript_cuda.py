"""What a traced file keeps of the settings that it was traced under."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from repack.backends import torchscript_cuda as converter
from repack.model import GpuModel


@pytest.mark.parametrize(("precision", "allowed"), [("f32", False), ("f16", True)])
def test_convolutions_asked_in_f32_are_not_rounded_to_tf32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, allowed: bool
) -> None:
    net = nn.Conv3d(1, 2, 3).eval().requires_grad_(False)

    def on_the_cpu(*_: Any) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        return net, (torch.rand(1, 1, 4, 4, 4),)

    monkeypatch.setattr(converter, "prepared", on_the_cpu)
    given = GpuModel(net, {"x": ("batch", 1, 4, 4, 4)}, {"x": "float32"}, ("y",))
    assert torch.backends.cudnn.allow_tf32  # PyTorch's default
    converter.convert(given, precision, tmp_path / "model.pt")
    assert torch.backends.cudnn.allow_tf32
    with warnings.catch_warnings():  # PyTorch would rather have torch.export
        warnings.simplefilter("ignore")
        graph = torch.jit.load(tmp_path / "model.pt").graph
    (node,) = graph.findAllNodes("aten::_convolution")
    assert list(node.inputs())[-1].toIValue() is allowed
