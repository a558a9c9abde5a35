"""Semantic segmentation nets on their way into an archive: pixels in, scores of classes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from handlers.errors import KitError
from handlers.passport import TensorSpec
from repack.model import Model
from repack.onnx.pixels import Normal
from repack.options import IMAGENET_MEAN, IMAGENET_STD, Options
from repack.sources.source import Source
from repack.tasks import ended, labels, pictures
from repack.tasks.detection import files
from repack.tasks.ended import Ending

SCORES, CLASSES = "scores", "classes"
"""Names of what a packed network gives: scores of each class, or each pixel's class."""

MODE = "stretch"
"""How pictures are fitted in where nobody says."""

BACKGROUND = "background"

EXPECTED = (
    "expected [N, classes, h, w] of logits or probabilities, or class numbers [N, h, w] or "
    "[N, 1, h, w]"
)


class Chosen(nn.Module):
    """Of a network's outputs the one that holds its classes.

    Args:
        index: which one it is.
        numbers: it holds numbers of classes, not scores.
        axes: how many it has.
    """

    def __init__(self, index: int, numbers: bool, axes: int):
        super().__init__()
        self.index, self.numbers, self.axes = index, numbers, axes

    def forward(self, *outputs: Tensor) -> Tensor:
        """``[N, classes, h, w]`` float32, or ``[N, h, w]`` int32."""
        found = outputs[self.index]
        if not self.numbers:
            return found if self.axes == 4 else found.unsqueeze(1)
        return (found.squeeze(1) if self.axes == 4 else found).int()


def make(source: Source, options: Options) -> Model:
    """A semantic segmentation net on pictures of one size.

    Raises:
        KitError: no such net of RGB or grey pictures, or options that contradict the file.
    """
    if source.engine is not None:
        raise KitError(f"{source.path}: {source.called} is served as it is: use --task tensors")
    if source.task != "tensors":
        raise KitError(
            f"{source.path}: {source.network} is made for {source.task}: leave --task out"
        )
    base, plain, sides = files.of_one_size(source, options)
    normal, assumed = _prepared(source, options, plain)
    asking = pictures.Asked(base, normal, lambda outputs, count: outputs[:1])
    outputs = asking.named(pictures.noise(sides, asking.fixed or 1))
    known = labels.count(options.detector.labels) or len(source.told.names)
    chosen, values = _chosen(source.path, outputs, sides, known)
    name = CLASSES if chosen.numbers else SCORES
    original = pictures.Asked(base, normal, partial(ended.answers, chosen))
    built = ended.of(original, Ending(chosen, (name,)), sides)
    threshold, how = _threshold(name, values, options.classifier.scores)
    names, unnamed = _names(source, options.detector.labels, known, values)
    mode = options.detector.mode or MODE
    notes = [f"{name} {list(values.shape)} are those of the output {list(outputs)[chosen.index]}"]
    if options.detector.mode is None:
        assumed = [f"{mode} (--resize-mode)", *assumed]
    if assumed:
        notes.append(f"assumed, because nobody states it: {', '.join(assumed)}")
    spec = TensorSpec(built.name, "uint8", (built.batch, *sides, 3), (0, 255), "NHWC")
    kind = "int32" if chosen.numbers else "float32"
    output = TensorSpec(name, kind, (built.batch, *built.shapes[0]))
    return Model(
        replace(source, task="semantic", labels=names),
        (spec,),
        (output,),
        built.module,
        lambda given: {name: built.asked.answers(given[spec.name])[0]},
        settings={
            "resize_mode": mode,
            "mean": list(normal.mean),
            "std": list(normal.std),
            "threshold": threshold,
            **pictures.settings(normal),
        },
        write_onnx=built.write,
        on_gpu=built.on_gpu(),
        own_types=base.own_types,
        half=normal.dtype == "float16",
        notes=(*base.notes, *pictures.notes(normal), *notes, *how, *unnamed),
    )


def _prepared(source: Source, options: Options, plain: Normal) -> tuple[Normal, list[str]]:
    """How pixels are normalised, by the user, else by the file, else as ImageNet's pictures are;
    and what was assumed of that."""
    asked, told = options.detector, source.told
    own = asked.mean or told.mean, asked.std or told.std
    usual = ((0, 0, 0), (1, 1, 1)) if plain.grey else (IMAGENET_MEAN, IMAGENET_STD)
    mean, std = own[0] or usual[0], own[1] or usual[1]
    whose = "mean 0, deviation 1" if plain.grey else "ImageNet's mean and standard deviation"
    assumed = [] if all(own) else [f"{whose} (--mean, --std)"]
    return pictures.normalised(source.path, plain, mean, std), assumed


def _chosen(
    path: Path, outputs: Mapping[str, NDArray[Any]], sides: tuple[int, int], known: int
) -> tuple[Chosen, NDArray[Any]]:
    """Which output holds the classes, and what it answered.

    Of several it is the first: training leaves the others, maps of as many classes.

    Raises:
        KitError: none does, or others are something else.
    """
    first, *others = outputs.values()
    alike = [v.shape[1:-2] == first.shape[1:-2] and v.dtype == first.dtype for v in others]
    if not all(_is_map(v, sides) for v in outputs.values()) or not all(alike):
        came = ", ".join(f"{n} {v.dtype} {list(v.shape)}" for n, v in outputs.items())
        raise KitError(
            f"{path}: answers {came} to a picture of {sides[0]}x{sides[1]}; {EXPECTED}, as high "
            "for their width as the picture: use --task tensors"
        )
    whole = first.dtype.kind != "f" or (
        _only(first) and bool((first == np.round(first)).all()) and (known > 2 or first.max() > 1)
    )
    chosen = Chosen(0, whole, first.ndim)
    (values,) = ended.answers(chosen, list(outputs.values()))
    if whole and not known:
        raise KitError(
            f"{path}: answers numbers of classes, which do not say how many there are: give "
            "--labels"
        )
    if whole and not 0 <= values.min() <= values.max() < max(known, 2):
        raise KitError(
            f"{path}: answers classes {values.min()} to {values.max()} to noise, but {known} are "
            "named"
        )
    return chosen, values


def _is_map(values: NDArray[Any], sides: tuple[int, int]) -> bool:
    """Whether it may be a value for each place of the picture, for one class or several."""
    if values.ndim not in (3, 4) or (values.dtype.kind != "f" and not _only(values)):
        return False
    h, w = values.shape[-2:]
    return bool(abs(h * sides[1] - w * sides[0]) <= max(sides))


def _only(values: NDArray[Any]) -> bool:
    """Whether there is one value for each place."""
    return values.ndim == 3 or values.shape[1] == 1


def _threshold(name: str, values: NDArray[Any], asked: str) -> tuple[float | None, list[str]]:
    """Above which score a network's only class counts; a note where that was told by its answers.
    None where there are several classes, or their numbers."""
    if name == CLASSES or values.shape[1] > 1:
        return None, []
    between = bool(values.min() >= 0 and values.max() <= 1)
    kind = ("probabilities" if between else "logits") if asked == "auto" else asked
    told = "assumed, because answers to noise lie between 0 and 1: scores are probabilities"
    notes = [f"{told} (--scores)"] if asked == "auto" and between else []
    return 0.5 if kind == "probabilities" else 0.0, notes


def _names(
    source: Source, given: Path | None, known: int, values: NDArray[Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """One name a class, and a note where nobody named them. A network of one class has two, the
    first of them all that is not it."""
    count = known if values.ndim == 3 else values.shape[1]
    if count > 1:
        return labels.named(source, given, count)
    if known != 1:
        return labels.named(source, given, 2)
    return (BACKGROUND, *labels.named(source, given, 1)[0]), ()
