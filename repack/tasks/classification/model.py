"""Classifiers on their way into an archive: pixels in, normalising inside the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from handlers.errors import KitError
from handlers.passport import TensorSpec
from repack.model import Arrays, Model
from repack.onnx import pixels
from repack.options import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAX_SIDE,
    ClassifierOptions,
    Options,
    Shapes,
    Three,
)
from repack.raw_tensors import tensors
from repack.sources.source import Source
from repack.sources.told import CLASSIFY
from repack.tasks import labels, pictures

USUAL_CROP = 224
Scores = NDArray[Any]

IMAGENET = "ImageNet's "

SUM_ERROR = 1e-3
"""How far from 1 a row of probabilities may sum up."""


def make(source: Source, given: Options) -> Model:
    """A classifier, as the options say; raises as ``classifier``.

    Raises:
        KitError: options that have no meaning for pictures.
    """
    if given.input_types or given.input_values:
        raise KitError(
            "a classifier takes pictures: leave the types of --input-shape and --input-values out, "
            "or use --task tensors"
        )
    return classifier(source, given.input_shapes, given.classifier)


def classifier(source: Source, shapes: Shapes, options: ClassifierOptions) -> Model:
    """A classifier: one picture in, one row of scores out.

    Args:
        shapes: as for ``tensors``; without one, a module is taken to want
            ``batch x 3 x crop x crop``.

    Raises:
        KitError: the model is no classifier of RGB pictures, or labels do not fit it.
    """
    if source.task not in ("tensors", "classification") or source.engine is not None:
        raise KitError(
            f"{source.path}: {source.network} is made for {source.task}: leave --task and "
            "--labels out"
        )
    if source.module is not None and not shapes and not source.told.sides:
        crop = options.crop or USUAL_CROP
        shapes = {"input": ("batch", source.told.channels, crop, crop)}
    base = tensors(source, shapes)
    plain = pictures.taken(base)
    crop = _crop(base, plain.layout, options)
    options, notes = _prepared(source, options, crop, plain.grey)
    mean, std, resize = cast(Three, options.mean), cast(Three, options.std), options.resize or crop
    if resize < crop:
        raise KitError(f"--resize {resize} is smaller than the {crop} pixels that are cut out")
    normal = pictures.normalised(source.path, plain, mean, std)
    asked = pictures.Asked(base, normal, partial(_rows, source.path))
    (probe,) = asked.answers(pictures.noise((crop, crop)))
    scores = _scores(source.path, probe, options)
    names, unnamed = labels.named(source, options.labels, probe.shape[1])
    batch = asked.fixed or "batch"
    spec = TensorSpec("pixels", "uint8", (batch, crop, crop, 3), (0, 255), "NHWC")
    out = replace(base.outputs[0], shape=(batch, probe.shape[1]), dtype=str(probe.dtype))
    settings = {
        "resize": resize,
        "crop": crop,
        "mean": list(mean),
        "std": list(std),
        "scores": scores,
        **pictures.settings(normal),
        "top_k": min(options.top_k, len(names)),
    }
    found = Model(
        source=replace(source, task="classification", labels=names),
        inputs=(spec,),
        outputs=(out,),
        module=None,
        original=_answering(out, asked),
        settings=settings,
        notes=(*base.notes, *pictures.notes(normal), *notes, *unnamed),
        own_types=base.own_types,
        half=normal.dtype == "float16",
    )
    if base.module is not None:
        return replace(found, module=pictures.FromPixels(base.module, normal).eval())
    return _onnx(found, asked)


def _prepared(
    source: Source, options: ClassifierOptions, crop: int, grey: bool
) -> tuple[ClassifierOptions, tuple[str, ...]]:
    """The options with ``mean``, ``std`` and ``resize``: the user's, else what the file says of
    itself, else what nearly every published classifier has; the last is a note.

    Raises:
        KitError: the file says something of them that is not understood.
    """
    told = source.told
    if told.task == CLASSIFY:
        usual: tuple[Three, Three, int] = ((0, 0, 0), (1, 1, 1), crop)
    elif grey:
        usual = ((0, 0, 0), (1, 1, 1), round(crop * 256 / 224))
    else:
        usual = (IMAGENET_MEAN, IMAGENET_STD, round(crop * 256 / 224))
    for key in ("mean", "std"):
        if key in told.unread and getattr(options, key) is None:
            raise KitError(f"{source.path}: {told.unread[key]}: give --{key} of values 0 to 1")
    mean, std = options.mean or told.mean, options.std or told.std
    assumed = []
    if told.task != CLASSIFY:
        assumed = [
            *([] if mean else [f"{'mean 0' if grey else IMAGENET + 'mean'} (--mean)"]),
            *(
                []
                if std
                else [f"{'deviation 1' if grey else IMAGENET + 'standard deviation'} (--std)"]
            ),
            *([] if options.resize else [f"a shorter side of {usual[2]} pixels (--resize)"]),
        ]
    notes = [f"assumed, because nobody states it: {', '.join(assumed)}"] if assumed else []
    mean, std, resize = mean or usual[0], std or usual[1], options.resize or usual[2]
    return replace(options, mean=mean, std=std, resize=resize), tuple(notes)


def _rows(path: Path, answers: Sequence[NDArray[Any]], count: int) -> Sequence[Scores]:
    """The scores of ``count`` pictures, alone in a list.

    Raises:
        KitError: the model does not answer rows of numbers.
    """
    if len(answers) != 1 or answers[0].ndim != 2 or len(answers[0]) != count:
        shapes = ", ".join(str(list(a.shape)) for a in answers)
        raise KitError(
            f"{path}: {shapes} came for {count} pictures; expected one output [{count}, classes]: "
            "a classifier's, or use --task tensors"
        )
    return answers


def _crop(base: Model, layout: str, options: ClassifierOptions) -> int:
    """The side of the model's pictures.

    Raises:
        KitError: they are no squares, or ``--crop`` differs from them.
    """
    path, spec = base.source.path, base.inputs[0]
    axes = dict(zip(layout, spec.shape, strict=True))
    sides = {n for n in (axes["H"], axes["W"]) if isinstance(n, int)}
    crop = options.crop or (min(sides) if sides else USUAL_CROP)
    if sides - {crop}:
        raise KitError(
            f"{path}: takes pictures of {axes['H']}x{axes['W']}; expected squares"
            + (f" of --crop {crop}" if options.crop else "")
        )
    if crop > MAX_SIDE:
        raise KitError(f"{path}: takes pictures of {crop}x{crop}; at most {MAX_SIDE}")
    return crop


def _scores(path: Path, probe: Scores, options: ClassifierOptions) -> str:
    """Whether the model ends in a softmax, told by its answers.

    Raises:
        KitError: values between 0 and 1 that do not add up to 1: it could be either.
    """
    if options.scores != "auto":
        return options.scores
    values = probe.astype(np.float64)
    if not np.isfinite(values).all():
        raise KitError(f"{path}: answers NaN or infinity for a picture of noise")
    if values.min() < 0 or values.max() > 1:
        return "logits"
    if np.abs(values.sum(axis=1) - 1).max() <= SUM_ERROR:
        return "probabilities"
    raise KitError(
        f"{path}: its answers lie between 0 and 1 but do not add up to 1: say what they are with "
        "--scores logits or --scores probabilities"
    )


def _onnx(found: Model, asked: pictures.Asked) -> Model:
    """The model of an ONNX file: its graph with the added nodes, its batch freed if it can be."""
    graph = onnx.load(found.source.graph)
    (spec,) = found.inputs
    sides, original = (int(spec.shape[1]), int(spec.shape[2])), found.original
    pixels.widen(graph)
    free = pictures.free(graph, asked, sides)
    if free is not asked:
        original = _answering(found.outputs[0], free)
    batch = free.fixed or "batch"
    name = pixels.input_name(graph)
    pixels.take_pixels(graph, sides, asked.normal)
    return replace(
        found,
        inputs=(replace(spec, name=name, shape=(batch, *spec.shape[1:])),),
        outputs=(replace(found.outputs[0], shape=(batch, *found.outputs[0].shape[1:])),),
        original=original,
        write_onnx=lambda path: onnx.save(graph, path),
    )


def _answering(output: TensorSpec, asked: pictures.Asked) -> Callable[[Arrays], Arrays]:
    return lambda given: {output.name: asked.answers(next(iter(given.values())))[0]}
