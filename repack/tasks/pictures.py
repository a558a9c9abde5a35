"""Models that take one picture: how their files are asked about pixels, apart from any graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handlers.errors import KitError
from repack.model import Arrays, Model
from repack.onnx import original, pixels
from repack.onnx.pixels import Normal
from repack.progress import say


def layout_of(base: Model) -> str:
    """Layout of the model's only input.

    Raises:
        KitError: another kind of input.
    """
    spec = base.inputs[0]
    if len(base.inputs) == 1 and len(spec.shape) == 4 and spec.dtype == "float32":
        if spec.shape[1] == 3:
            return "NCHW"
        if spec.shape[3] == 3:
            return "NHWC"
    shown = "; ".join(f"{s.name} {s.dtype} {list(s.shape)}" for s in base.inputs)
    raise KitError(
        f"{base.source.path}: takes {shown}; expected one float32 input of RGB pictures, "
        "[N, 3, H, W] or [N, H, W, 3]: use --task tensors, or --input-shape where the file does "
        "not say"
    )


class Asked:
    """The unconverted model, asked about pixels: normalised here in NumPy.

    Args:
        answer: from its outputs for one batch, and the batch's size, to arrays whose rows are the
            pictures'.

    Attributes:
        fixed: how many pictures it takes at once; None for any number.
    """

    def __init__(
        self,
        base: Model,
        normal: Normal,
        answer: Callable[[Sequence[NDArray[Any]], int], Sequence[NDArray[Any]]],
    ):
        self.base = base
        self.normal = normal
        self.answer = answer
        self.mean = np.array(normal.mean, np.float32)
        self.std = np.array(normal.std, np.float32)
        size = base.inputs[0].shape[0]
        self.fixed = size if isinstance(size, int) else None

    def with_any_batch(self, run: Callable[[Arrays], Arrays]) -> Asked:
        """The same, asked through a function that takes any batch."""
        spec = self.base.inputs[0]
        free = replace(spec, shape=("batch", *spec.shape[1:]))
        return Asked(replace(self.base, inputs=(free,), original=run), self.normal, self.answer)

    def answers(self, pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """The answers to ``[N, H, W, 3]``, whatever batch the model takes.

        Raises:
            KitError: the model does not answer as it should.
        """
        count, step = len(pixels), self.fixed or len(pixels)
        filled = np.concatenate([pixels, np.repeat(pixels[:1], -count % step, axis=0)])
        parts = [
            self.answer(self.outputs(filled[i : i + step]), step)
            for i in range(0, len(filled), step)
        ]
        return [np.concatenate(part)[:count] for part in zip(*parts, strict=True)]

    def outputs(self, pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """All that the model answers to a batch that it takes."""
        return [np.array(a) for a in self.base.ask(self.values(pixels)).values()]

    def values(self, pixels: NDArray[np.uint8]) -> Arrays:
        """What the model takes for these pixels."""
        given = pixels[..., ::-1] if self.normal.bgr else pixels
        normal = (given.astype(np.float32) / np.float32(255) - self.mean) / self.std
        planes = normal.transpose(0, 3, 1, 2) if self.normal.layout == "NCHW" else normal
        return {self.base.inputs[0].name: np.ascontiguousarray(planes)}


class FromPixels(nn.Module):
    """A model that takes pictures as they are decoded: ``[N, H, W, 3]`` uint8, RGB."""

    offset: Tensor
    scale: Tensor

    def __init__(self, model: nn.Module, normal: Normal):
        super().__init__()
        self.model = model
        self.normal = normal
        self.register_buffer("offset", torch.tensor(normal.mean) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(normal.std) * 255))

    def forward(self, pixels: Tensor) -> Any:
        given = pixels.flip(3) if self.normal.bgr else pixels
        normal = (given.to(torch.float32) - self.offset) * self.scale
        return self.model(normal.permute(0, 3, 1, 2) if self.normal.layout == "NCHW" else normal)


def free(graph: onnx.ModelProto, asked: Asked, sides: tuple[int, int]) -> Asked:
    """The original with any batch, where the file's own is fixed and others give the same answers;
    ``graph`` is changed to take them, and what came of it is said. Else ``asked`` itself.
    """
    if asked.fixed is None:
        return asked
    found = _freed(graph, asked, sides)
    note = "any batch gives the same answers" if found else "batches are filled up to that"
    say(f"    note: the file is fixed at batch {asked.fixed}; {note}")
    if found is None:
        return asked
    pixels.free_batch(graph)
    return found


def _freed(graph: onnx.ModelProto, asked: Asked, sides: tuple[int, int]) -> Asked | None:
    """The original with any batch; None where that fails or differs for one picture or three.

    It is asked instead of the file itself because one picture would cost a whole batch.
    """
    trial = onnx.ModelProto()
    trial.CopyFrom(graph)
    pixels.free_batch(trial)
    given = noise(sides, 3)
    wanted = asked.answers(given)
    try:
        session = original.session(trial.SerializeToString(), asked.base.source)
        names = [o.name for o in session.get_outputs()]
        found = asked.with_any_batch(
            lambda given: dict(zip(names, session.run(None, given), strict=True))
        )
        same = [
            np.allclose(have, want[:n], 1e-4, 9e-4)
            for n in (1, 3)
            for have, want in zip(found.answers(given[:n]), wanted, strict=True)
        ]
    except Exception:  # ONNX Runtime raises many types for a graph that wants its own batch
        return None
    return found if all(same) else None


def noise(sides: tuple[int, int], count: int = 2) -> NDArray[np.uint8]:
    """Pictures of random pixels, ``[count, H, W, 3]``."""
    return np.random.default_rng(0).integers(0, 256, (count, *sides, 3), np.uint8)
