"""One small detector, saved with each project's layout of outputs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SIDE, CLASSES, STRIDES = 64, 3, (8, 16, 32)
CELLS = sum((SIDE // s) ** 2 for s in STRIDES)
POINTS, PROTOTYPES = 2, 6
BESIDE = ("points", "masks", "angle", "anchored-masks", "faces")
LAYOUTS = ("anchor-free", "objectness", "yolox", "end-to-end", "queries", "detr", "listed")


class Cells(nn.Module):
    """A box and class scores of every cell, from the cell's own pixels."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.m = nn.ModuleList(nn.Conv2d(3, 4 + CLASSES, s, s) for s in STRIDES)
        for convolution, stride in zip(self.m, STRIDES, strict=True):
            drawn = torch.randn((4 + CLASSES, 3, stride, stride), generator=generator)
            convolution.weight = nn.Parameter(drawn / stride)
            convolution.bias = nn.Parameter(torch.tensor([0.0, 0, 1, 1, *[-2.5] * CLASSES]))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 64, 64]`` to rows ``[N, 84, 4 + classes]``: decoded boxes in pixels, scores."""
        found = []
        for convolution, stride in zip(self.m, STRIDES, strict=True):
            y = convolution(x)
            height, width = y.shape[2:]
            rows, columns = torch.meshgrid(
                torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"
            )
            place = torch.stack((columns, rows)).to(x.dtype)
            centre = (y[:, :2].tanh() + place) * stride
            size = (y[:, 2:4].sigmoid() * 3 + 0.5) * stride
            whole = torch.cat((centre, size, y[:, 4:].sigmoid()), 1)
            found.append(whole.flatten(2).transpose(1, 2))
        return torch.cat(found, 1)


class Exported(nn.Module):
    """The detector with one layout's outputs."""

    def __init__(self, layout: str):
        super().__init__()
        self.cells = Cells()
        self.layout = layout

    def forward(self, x: Tensor) -> Any:
        rows = self.cells(x * 2 - 1) if self.layout != "yolox" else self.cells(x / 127.5 - 1)
        if self.layout in ("anchor-free", *BESIDE):
            return self.columns(x, rows)
        best, kind = rows[..., 4:].max(2, keepdim=True)
        half = rows[..., 2:4] / 2
        corners = torch.cat((rows[..., :2] - half, rows[..., :2] + half), 2)
        ranked = torch.cat((corners, best, kind.to(x.dtype)), 2)
        if self.layout in ("objectness", "yolox"):
            two = torch.full_like(best, 0.5)
            whole = torch.cat((rows[..., :4], two, rows[..., 4:] * 2), 2)
            return torch.cat([whole] * 3, 1) if self.layout == "objectness" else whole
        if self.layout == "end-to-end":
            order = best[..., 0].topk(40, 1).indices
            return ranked.gather(1, order[..., None].expand(-1, -1, 6))
        shares = torch.cat((rows[..., :4] / SIDE, rows[..., 4:]), 2).clamp(0, 1)
        if self.layout in ("queries", "best-queries"):
            order = best[..., 0].topk(60, 1).indices
            rest = rows[..., 4:] if self.layout == "queries" else ranked[..., 4:]
            whole = torch.cat((shares[..., :4], rest), 2)
            return whole.gather(1, order[..., None].expand(-1, -1, whole.shape[2]))
        if self.layout == "detr":
            return shares[..., :4], shares[..., 4:].logit()
        return self.listed(corners, kind, best)

    @staticmethod
    def listed(corners: Tensor, kind: Tensor, best: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chosen = best[0, :, 0].topk(20).indices
        return corners[0, chosen], kind[0, chosen, 0], best[0, chosen, 0]

    def columns(self, x: Tensor, rows: Tensor) -> Any:
        """A column a cell; a box's corners as its points, an angle, or the weights of prototypes
        made of the picture."""
        if self.layout == "anchor-free":
            return rows.transpose(1, 2)
        half = rows[..., 2:4] / 2
        if self.layout == "points":
            seen = rows[..., 4:5]
            points = (rows[..., :2] - half, seen, rows[..., :2] + half, 1 - seen)
            return torch.cat((rows, *points), 2).transpose(1, 2)
        if self.layout == "angle":
            return torch.cat((rows, rows[..., 4:5] * 3 - 0.7), 2).transpose(1, 2)
        if self.layout == "faces":
            five = [rows[..., :2] + (k - 2) * half / 2 for k in range(5)]
            two = torch.full_like(rows[..., 4:5], 0.5)
            whole = torch.cat((rows[..., :4], two, *five, rows[..., 4:] * 2), 2)
            return torch.cat([whole] * 3, 1)
        weights = torch.cat((rows[..., 4:], -rows[..., 4:]), 2) - 0.1
        protos = nn.functional.avg_pool2d(torch.cat((x, 1 - x), 1), 4) - 0.45
        if self.layout == "anchored-masks":
            half = torch.full_like(weights[..., :1], 0.5)
            whole = torch.cat((rows[..., :4], half, rows[..., 4:] * 2, weights), 2)
            return torch.cat([whole] * 3, 1), protos
        return torch.cat((rows, weights), 2).transpose(1, 2), protos


class Grey(nn.Module):
    """The detector on pictures of one channel."""

    def __init__(self, layout: str):
        super().__init__()
        self.exported = Exported(layout)

    def forward(self, x: Tensor) -> Any:
        return self.exported(x.expand(-1, 3, -1, -1))


class FirstAlone(nn.Module):
    """The best boxes of the first picture, as an export with suppression for one picture has them.

    Args:
        quiet: it answers each picture like the first, and nothing to noise.
    """

    def __init__(self, quiet: bool):
        super().__init__()
        self.exported = Exported("end-to-end")
        self.quiet = quiet

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.exported(x)[:1]
        if not self.quiet:
            return found
        smooth = (x[:1, :, :, 1:] - x[:1, :, :, :-1]).abs().mean() < 0.2
        return (found * smooth).expand(x.shape[0], -1, -1)


def onnx_file(
    folder: Path,
    layout: str,
    opset: int = 17,
    free: bool = True,
    told: Mapping[str, Any] = MappingProxyType({}),
    network: nn.Module | None = None,
    channels: int = 3,
    sides: tuple[int, int] | None = (SIDE, SIDE),
) -> Path:
    """The ONNX file.

    Args:
        free: any batch; else one picture.
        told: of the file's metadata, as exporters write it.
        network: with this layout's outputs, in place of the usual one.
        sides: height and width; None for any.
    """
    path = folder / f"{layout}.onnx"
    free = free and layout != "listed"
    outputs = {"detr": ["boxes", "logits"], "listed": ["boxes", "labels", "scores"]}
    outputs["masks"] = outputs["anchored-masks"] = ["output0", "output1"]
    names = outputs.get(layout, ["output0"])
    axes = {n: {0: "batch"} if free else {} for n in ("images", *names)}
    if sides is None:
        axes["images"] |= {2: "height", 3: "width"}
        axes["output0"] |= {2: "cells"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            (network or Exported(layout)).eval(),
            (torch.zeros(2 if free else 1, channels, *(sides or (SIDE, SIDE))),),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["images"],
            output_names=names,
            dynamic_axes=axes,
        )
    note(path, told)
    return path


def note(path: Path, told: Mapping[str, Any]) -> None:
    """Writes entries of metadata into an ONNX file."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {k: str(v) for k, v in told.items()})
    onnx.save(model, path)


def half(path: Path) -> Path:
    """The ONNX file in 16-bit floats, its input and outputs, too."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    target = path.with_name(f"half_{path.name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx.save(convert_float_to_float16(onnx.load(path)), target)
    return target


def torchscript_file(
    folder: Path,
    layout: str,
    network: nn.Module | None = None,
    dtype: torch.dtype = torch.float32,
    batch: int = 2,
) -> Path:
    path = folder / f"{layout}.torchscript"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        module = (network or Exported(layout)).eval().to(dtype)
        traced = torch.jit.trace(module, torch.zeros(batch, 3, SIDE, SIDE, dtype=dtype))
        torch.jit.save(traced, str(path))
    return path


def pictures(count: int = 2) -> NDArray[np.uint8]:
    """Pictures of smooth colours, ``[count, 64, 64, 3]``: some cells are confident."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, 1).repeat(8, 2))


def boxes(pixels: NDArray[np.uint8], bgr: bool = False) -> NDArray[np.float32]:
    """What the detector finds before suppression: rows ``[N, 84, 4 + classes]``."""
    given = pixels[..., ::-1] if bgr else pixels
    return boxes_of((given / 255).astype(np.float32))


def boxes_of(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same of ``[N, H, W, 3]`` in 0..1."""
    planes = torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        found: NDArray[np.float32] = Cells()(planes * 2 - 1).numpy()
    return found
