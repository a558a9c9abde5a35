"""Models that take one picture: how their files are asked about pixels, apart from any graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handlers.errors import KitError
from handlers.runtimes.torchscript import flatten
from repack import rows
from repack.model import Arrays, Model
from repack.onnx import original, pixels
from repack.onnx.pixels import LUMA, Normal
from repack.options import Three
from repack.progress import say


def taken(base: Model) -> Normal:
    """What the model's only input is, not normalised.

    Raises:
        KitError: another kind of input.
    """
    spec = base.inputs[0]
    if len(base.inputs) == 1 and len(spec.shape) == 4 and spec.dtype in ("float32", "float16"):
        for channels in (3, 1):
            for layout in ("NCHW", "NHWC"):
                if spec.shape[layout.index("C")] == channels:
                    return Normal(layout, grey=channels == 1, dtype=spec.dtype)
    shown = "; ".join(f"{s.name} {s.dtype} {list(s.shape)}" for s in base.inputs)
    raise KitError(
        f"{base.source.path}: takes {shown}; expected one float32 or float16 input of RGB or grey "
        "pictures, [N, 3, H, W], [N, H, W, 3], or 1 in place of 3: use --task tensors, or "
        "--input-shape where the file does not say"
    )


def normalised(path: Path, normal: Normal, mean: Three, std: Three, bgr: bool = False) -> Normal:
    """The same with its mean and standard deviation.

    Raises:
        KitError: a grey model's are not one value.
    """
    for flag, values in (("--mean", mean), ("--std", std)):
        if normal.grey and len(set(values)) > 1:
            shown = ",".join(f"{v:g}" for v in values)
            raise KitError(
                f"{path}: takes one grey channel, but {flag} is {shown}; expected one value"
            )
    return replace(normal, mean=mean, std=std, bgr=bgr)


def notes(normal: Normal) -> list[str]:
    """What is done to pictures beside scaling and normalising."""
    red, green, blue = LUMA
    grey = f"one channel: pictures become their luma, {red} R + {green} G + {blue} B"
    half = (
        "the file takes float16: pictures are normalised in float32 and cast, outputs are cast "
        "back, and what answers like it is held to f16's bounds"
    )
    return [*([grey] if normal.grey else []), *([half] if normal.dtype == "float16" else [])]


def settings(normal: Normal) -> dict[str, Any]:
    """What the passport says of that."""
    return {"luma": list(LUMA)} if normal.grey else {}


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
        # In the graph's own order: half a unit in the last place becomes a whole one in float16.
        self.offset = np.array(normal.mean[: normal.channels], np.float32) * 255
        self.scale = 1 / (np.array(normal.std[: normal.channels], np.float32) * 255)
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
        return list(self.named(pixels).values())

    def named(self, pixels: NDArray[np.uint8]) -> Arrays:
        """The same by name, 16-bit floats in 32 bits."""
        found = self.base.ask(self.values(pixels))
        return {
            k: a.astype(np.float32 if a.dtype == np.float16 else a.dtype) for k, a in found.items()
        }

    def values(self, pixels: NDArray[np.uint8]) -> Arrays:
        """What the model takes for these pixels."""
        given = pixels[..., ::-1] if self.normal.bgr else pixels
        wide = given.astype(np.float32)
        if self.normal.grey:
            wide = (wide * np.array(LUMA, np.float32)).sum(3, keepdims=True)
        normal = (wide - self.offset) * self.scale
        planes = normal.transpose(0, 3, 1, 2) if self.normal.layout == "NCHW" else normal
        return {self.base.inputs[0].name: np.ascontiguousarray(planes, self.normal.dtype)}


class FromPixels(nn.Module):
    """A model that takes pictures as they are decoded: ``[N, H, W, 3]`` uint8, RGB."""

    offset: Tensor
    scale: Tensor
    luma: Tensor | None

    def __init__(self, model: nn.Module, normal: Normal):
        super().__init__()
        self.model = model
        self.normal = normal
        channels = normal.channels
        self.register_buffer("offset", torch.tensor(normal.mean[:channels]) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(normal.std[:channels]) * 255))
        self.register_buffer("luma", torch.tensor(LUMA) if normal.grey else None)

    def forward(self, pixels: Tensor) -> Any:
        given = pixels.flip(3) if self.normal.bgr else pixels
        wide = given.to(torch.float32)
        if self.luma is not None:
            wide = (wide * self.luma).sum(3, keepdim=True)
        normal = (wide - self.offset) * self.scale
        if self.normal.layout == "NCHW":
            normal = normal.permute(0, 3, 1, 2)
        if self.normal.dtype == "float32":
            return self.model(normal)
        answer = self.model(normal.half())
        parts = [v.float() if v.dtype == torch.float16 else v for v in flatten(answer).values()]
        return parts[0] if len(parts) == 1 else tuple(parts)


def one_by_one(asked: Asked, sides: tuple[int, int], batches: bool) -> Asked:
    """The original as it is where it answers several pictures at once as each alone; else to be
    asked about one at a time, and that is said.

    Args:
        batches: whether networks of its kind answer several.
    """
    spec = asked.base.inputs[0]
    single = replace(asked.base, inputs=(replace(spec, shape=(1, *spec.shape[1:])),))
    alone = Asked(single, asked.normal, asked.answer)
    if batches:
        given = noise(sides, 3)
        want = alone.answers(given)
        try:
            if _same(want, asked.answers(given)):
                return asked
        except Exception:  # noqa: S110  # runtimes raise many types for a network of one picture
            pass
    say("    note: several pictures at once are not answered as each alone: they run one by one")
    return alone


def _same(want: Sequence[NDArray[Any]], have: Sequence[NDArray[Any]]) -> bool:
    """Whether two answers are the same, rows of lists in any order."""
    first, second = ({str(i): a for i, a in enumerate(x)} for x in (want, have))
    if [a.shape for a in want] != [a.shape for a in have]:
        return False
    (second,) = rows.matched([first], [second], list(first))
    return all(np.allclose(second[k], a, 1e-4, 9e-4) for k, a in first.items())


def free(graph: onnx.ModelProto, asked: Asked, sides: tuple[int, int]) -> Asked:
    """The original with any batch, where the file's own is fixed and others give the same answers;
    ``graph`` is changed to take them, and what came of it is said. Else ``asked`` itself.
    """
    if asked.fixed is None:
        return asked
    found = _freed(graph, asked, sides)
    filled = "batches are filled up to that" if asked.fixed > 1 else "pictures run one by one"
    note = "any batch gives the same answers" if found else filled
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
    if not any((a[0] != a[1]).any() for a in wanted):
        return None  # answers of nothing are the same from any network
    try:
        session = original.session(trial.SerializeToString(), asked.base.source)
        names = [o.name for o in session.get_outputs()]
        found = asked.with_any_batch(
            lambda given: dict(zip(names, session.run(None, given), strict=True))
        )
        same = [_same([a[:n] for a in wanted], found.answers(given[:n])) for n in (1, 3)]
    except Exception:  # ONNX Runtime raises many types for a graph that wants its own batch
        return None
    return found if all(same) else None


def noise(sides: tuple[int, int], count: int = 2) -> NDArray[np.uint8]:
    """Pictures of random pixels, ``[count, H, W, 3]``."""
    return np.random.default_rng(0).integers(0, 256, (count, *sides, 3), np.uint8)
