"""A file's own network with the task's ending behind it, from pixels on, for every backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handlers.runtimes.torchscript import flatten
from repack.model import GpuModel
from repack.onnx import appended, pixels
from repack.options import Shapes
from repack.tasks import pictures


@dataclass(frozen=True)
class Ending:
    """What a task puts behind a network.

    Attributes:
        module: takes the network's outputs, in their order, 16-bit floats in 32 bits.
        names: of what it gives.
        batches: whether such networks answer several pictures at once.
        lists: it gives lists whose length the picture decides.
    """

    module: nn.Module
    names: tuple[str, ...]
    batches: bool = True
    lists: bool = False


def of(asked: pictures.Asked, ending: Ending, sides: tuple[int, int]) -> _OfGraph | _OfModule:
    """The network of an ONNX or a TorchScript file with its ending, on pictures of one size.

    Args:
        asked: the original; its answers are those of the ending.
    """
    build = _OfGraph if asked.base.module is None else _OfModule
    return build(asked, ending, sides)


def answers(
    module: nn.Module, outputs: Sequence[NDArray[Any]], count: int = 0
) -> list[NDArray[Any]]:
    """What an ending gives for a network's outputs to ``count`` pictures."""
    with torch.inference_mode():
        found = module(*(torch.from_numpy(value) for value in outputs))
    return [part.numpy() for part in (found if isinstance(found, tuple) else (found,))]


class _OfGraph:
    """An ONNX file's graph, from pixels to its ending.

    Attributes:
        asked: the original, with any batch where the file can be made to take it.
        batch: the first axis of the input.
        name: of the input.
        shapes: of one picture's answers.
        module: what is traced; none.
    """

    module = None

    def __init__(self, asked: pictures.Asked, ending: Ending, sides: tuple[int, int]):
        self.graph = onnx.load(asked.base.source.graph)
        self.ending, self.sides = ending, sides
        pixels.set_sides(self.graph, sides, asked.normal.layout)
        pixels.widen(self.graph)
        if asked.fixed is not None:
            self.asked = pictures.free(self.graph, asked, sides)
        else:
            self.asked = pictures.one_by_one(asked, sides, ending.batches)
            if self.asked.fixed is not None:
                pixels.fix_batch(self.graph, self.asked.fixed)
        self.batch = self.asked.fixed or "batch"
        self.name = pixels.input_name(self.graph)
        self.example = self.asked.outputs(pictures.noise(sides, self.asked.fixed or 2))
        self.shapes = [part.shape[1:] for part in answers(ending.module, self.example)]

    def write(self, path: Path) -> None:
        self._write(path, pixels.take_pixels)

    def on_gpu(self) -> GpuModel:
        return _on_gpu(self, None, write=lambda path: self._write(path, pixels.take_planes))

    def _write(self, path: Path, front: Callable[..., None]) -> None:
        graph = _copy(self.graph)
        front(graph, self.sides, self.asked.normal)
        free = isinstance(self.batch, str)
        end = self.ending
        whole = appended.append(graph, end.module, self.example, end.names, free)
        if not end.lists:
            for output, shape in zip(whole.graph.output, self.shapes, strict=True):
                axes = output.type.tensor_type.shape.dim
                for axis, size in zip(axes[1:], shape, strict=True):
                    axis.dim_value = size
        onnx.save(whole, path)


class _OfModule:
    """The same of a TorchScript file's module, which is traced."""

    write = None
    name = "images"

    def __init__(self, asked: pictures.Asked, ending: Ending, sides: tuple[int, int]):
        if asked.fixed is None:
            asked = pictures.one_by_one(asked, sides, ending.batches)
        self.asked, self.ending, self.sides = asked, ending, sides
        self.batch = asked.fixed or "batch"
        self.whole = _Whole(cast(nn.Module, asked.base.module), ending.module)
        self.module = pictures.FromPixels(self.whole, asked.normal).eval()
        example = asked.outputs(pictures.noise(sides, asked.fixed or 2))
        self.shapes = [part.shape[1:] for part in answers(ending.module, example)]

    def on_gpu(self) -> GpuModel:
        planes = _FromPlanes(self.whole, self.asked.normal).eval()
        return _on_gpu(self, planes, channels_last=True)


def _on_gpu(built: _OfGraph | _OfModule, module: nn.Module | None, **more: Any) -> GpuModel:
    shapes: Shapes = {built.name: (built.batch, 3, *built.sides)}
    types = {built.name: "float32"}
    return GpuModel(module, shapes, types, built.ending.names, pixels=(built.name,), **more)


class _Whole(nn.Module):
    """A network and its ending."""

    def __init__(self, network: nn.Module, ending: nn.Module):
        super().__init__()
        self.network = network
        self.ending = ending

    def forward(self, x: Tensor) -> Any:
        outputs = flatten(self.network(x)).values()
        return self.ending(*(v.float() if v.dtype == torch.float16 else v for v in outputs))


class _FromPlanes(pictures.FromPixels):
    """The same, of ``[N, 3, H, W]`` in 0..1."""

    def forward(self, planes: Tensor) -> Any:
        return super().forward(planes.permute(0, 2, 3, 1) * 255)


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    return made
