"""YOLOv5s for 80 classes that answers as the shipped YOLOv5n does: trained values at full size.

Every channel is doubled and every weight that reads it is split over the two, so that each layer
gives what it gave before, twice (function-preserving widening: Chen, Goodfellow, Shlens, "Net2Net",
2016). The halves are unequal, so that the weights do not simply repeat. Speed, memory and rounding
are those of a YOLOv5s; accuracy can be measured, because the shipped model's six classes stay and
the other 74 are never sure.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from examples.shapes import evaluate
from examples.shapes.scenes import CLASSES
from repack.networks.yolov5 import STRIDES, Detect, YOLOv5

TOTAL = 80
"""Classes of the published YOLOv5s."""

UNEQUAL = 0.3
"""How far the halves of a weight lie apart, in parts of the weight."""

NEVER = -9.0
"""Bias of a class that is not there, before the sigmoid: 0.0001."""


def yolov5s(path: Path) -> Path:
    """Writes the checkpoint, in the shipped one's layout; the same bytes' worth at every call."""
    small = cast(YOLOv5, evaluate.load())
    torch.manual_seed(0)
    large = YOLOv5("yolov5s", TOTAL)
    wanted = large.state_dict()
    grown = {
        name: _head(name, value, small.classes)
        if name.startswith("model.24.m.")
        else _widened(value, wanted[name].shape)
        for name, value in small.state_dict().items()
    }
    large.load_state_dict(grown)
    anchors = cast(Detect, small.model[24]).anchors * torch.tensor(STRIDES).view(3, 1, 1)
    names = [*CLASSES, *(f"class {i}" for i in range(len(CLASSES), TOTAL))]
    checkpoint = {
        "family": "yolov5",
        "network": "yolov5s",
        "names": names,
        "anchors": anchors,
        "state_dict": large.state_dict(),
    }
    torch.save(checkpoint, path)
    return path


def _widened(value: Tensor, shape: torch.Size) -> Tensor:
    """A layer's tensor in the shape that its twice as wide layer has."""
    if value.shape == shape:
        return value
    wide = value.repeat_interleave(2, 0)
    if wide.shape == shape:
        return wide
    return _split(wide)


def _split(weight: Tensor) -> Tensor:
    """``[out, in, ...]`` to ``[out, 2 * in, ...]``: each weight in two unequal halves."""
    half = weight / 2
    apart = half * UNEQUAL * torch.randn_like(half).clamp(-2, 2)
    return torch.stack((half + apart, half - apart), 2).flatten(1, 2)


def _head(name: str, value: Tensor, classes: int) -> Tensor:
    """The head's convolution: twice the inputs, and the absent classes after the known ones."""
    if name.endswith("anchors"):
        return value
    per_anchor = value.view(3, 5 + classes, *value.shape[1:])
    if value.dim() == 1:
        absent = torch.full((3, TOTAL - classes), NEVER)
        return torch.cat((per_anchor, absent), 1).flatten(0, 1)
    absent = torch.randn(3, TOTAL - classes, *value.shape[1:]) * 1e-3
    return _split(torch.cat((per_anchor, absent), 1).flatten(0, 1))
