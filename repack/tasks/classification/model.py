"""Classifiers on their way into an archive: pixels in, normalising inside the graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handlers.errors import KitError
from handlers.passport import TensorSpec
from repack.model import Arrays, Model, tensors
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
from repack.progress import say
from repack.sources.errors import printable
from repack.sources.source import Source
from repack.sources.told import CLASSIFY, INDEX

USUAL_CROP = 224
Scores = NDArray[Any]

SUM_ERROR = 1e-3
"""How far from 1 a row of probabilities may sum up."""


class PixelClassifier(nn.Module):
    """A classifier that takes pictures as they are decoded.

    Input: ``[N, H, W, 3]`` uint8, RGB. Output: as the classifier's own.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, classifier: nn.Module, mean: Three, std: Three, layout: str):
        super().__init__()
        self.classifier = classifier
        self.layout = layout
        self.register_buffer("offset", torch.tensor(mean) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(std) * 255))

    def forward(self, pixels: Tensor) -> Tensor:
        normal = (pixels.to(torch.float32) - self.offset) * self.scale
        planes = normal.permute(0, 3, 1, 2) if self.layout == "NCHW" else normal
        result: Tensor = self.classifier(planes)
        return result


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
        shapes = {"input": ("batch", 3, crop, crop)}
    base = tensors(source, shapes)
    layout, crop = _geometry(base, options)
    options, notes = _prepared(source, options, crop)
    mean, std, resize = cast(Three, options.mean), cast(Three, options.std), options.resize or crop
    if resize < crop:
        raise KitError(f"--resize {resize} is smaller than the {crop} pixels that are cut out")
    asked = _Original(base, layout, options)
    probe = asked.answers(_noise(crop))
    scores = _scores(source.path, probe, options)
    labels, unnamed = _labels(source, options.labels, probe.shape[1])
    batch = asked.fixed or "batch"
    spec = TensorSpec("pixels", "uint8", (batch, crop, crop, 3), (0, 255), "NHWC")
    out = replace(base.outputs[0], shape=(batch, probe.shape[1]))
    settings = {
        "resize": resize,
        "crop": crop,
        "mean": list(mean),
        "std": list(std),
        "scores": scores,
        "top_k": min(options.top_k, len(labels)),
    }
    found = Model(
        source=replace(source, task="classification", labels=labels),
        inputs=(spec,),
        outputs=(out,),
        module=None,
        original=_answering(out, asked),
        settings=settings,
        notes=(*base.notes, *notes, *unnamed),
    )
    if base.module is not None:
        module = PixelClassifier(base.module, mean, std, layout).eval()
        return replace(found, module=module)
    return _onnx(found, asked, layout, mean, std)


def _prepared(
    source: Source, options: ClassifierOptions, crop: int
) -> tuple[ClassifierOptions, tuple[str, ...]]:
    """The options with ``mean``, ``std`` and ``resize``: the user's, else what the file says of
    itself, else what nearly every published classifier has; the last is a note.

    Raises:
        KitError: the file says something of them that is not understood.
    """
    told = source.told
    if told.task == CLASSIFY:
        usual: tuple[Three, Three, int] = ((0, 0, 0), (1, 1, 1), crop)
    else:
        usual = (IMAGENET_MEAN, IMAGENET_STD, round(crop * 256 / 224))
    for key in ("mean", "std"):
        if key in told.unread and getattr(options, key) is None:
            raise KitError(f"{source.path}: {told.unread[key]}: give --{key} of values 0 to 1")
    mean, std = options.mean or told.mean, options.std or told.std
    assumed = []
    if told.task != CLASSIFY:
        assumed = [
            *([] if mean else ["ImageNet's mean (--mean)"]),
            *([] if std else ["ImageNet's standard deviation (--std)"]),
            *([] if options.resize else [f"a shorter side of {usual[2]} pixels (--resize)"]),
        ]
    notes = [f"assumed, because nobody states it: {', '.join(assumed)}"] if assumed else []
    mean, std, resize = mean or usual[0], std or usual[1], options.resize or usual[2]
    return replace(options, mean=mean, std=std, resize=resize), tuple(notes)


class _Original:
    """The unconverted model, asked about pixels: normalised here in NumPy, apart from any graph."""

    def __init__(self, base: Model, layout: str, options: ClassifierOptions):
        self.base = base
        self.layout = layout
        self.options = options
        self.mean = np.array(options.mean, np.float32)  # _prepared has filled them in
        self.std = np.array(options.std, np.float32)
        size = base.inputs[0].shape[0]
        self.fixed = size if isinstance(size, int) else None

    def with_any_batch(self, run: Callable[[Arrays], Arrays]) -> _Original:
        """The same, asked through a function that takes any batch."""
        spec = self.base.inputs[0]
        free = replace(spec, shape=("batch", *spec.shape[1:]))
        return _Original(
            replace(self.base, inputs=(free,), original=run), self.layout, self.options
        )

    def answers(self, pixels: NDArray[np.uint8]) -> Scores:
        """Scores ``[N, classes]`` of ``[N, H, W, 3]``, whatever batch the model takes.

        Raises:
            KitError: the model does not answer rows of numbers.
        """
        count, step = len(pixels), self.fixed or len(pixels)
        filled = np.concatenate([pixels, np.repeat(pixels[:1], -count % step, axis=0)])
        rows = [self._rows(filled[i : i + step]) for i in range(0, len(filled), step)]
        return np.concatenate(rows)[:count]

    def values(self, pixels: NDArray[np.uint8]) -> Arrays:
        """What the model takes for these pixels."""
        spec = self.base.inputs[0]
        normal = (pixels.astype(np.float32) / np.float32(255) - self.mean) / self.std
        planes = normal.transpose(0, 3, 1, 2) if self.layout == "NCHW" else normal
        return {spec.name: np.ascontiguousarray(planes)}

    def _rows(self, pixels: NDArray[np.uint8]) -> Scores:
        answers = list(self.base.ask(self.values(pixels)).values())
        shapes = ", ".join(str(list(a.shape)) for a in answers)
        if len(answers) != 1 or answers[0].ndim != 2 or len(answers[0]) != len(pixels):
            raise KitError(
                f"{self.base.source.path}: {shapes} came for {len(pixels)} pictures; expected one "
                f"output [{len(pixels)}, classes]: a classifier's, or use --task tensors"
            )
        return np.array(answers[0])


def _geometry(base: Model, options: ClassifierOptions) -> tuple[str, int]:
    """Layout of the model's input, and the side of its pictures.

    Raises:
        KitError: another kind of input, or ``--crop`` differs from it.
    """
    path = base.source.path
    shown = "; ".join(f"{s.name} {s.dtype} {list(s.shape)}" for s in base.inputs)
    spec = base.inputs[0]
    layout = ""
    if len(base.inputs) == 1 and len(spec.shape) == 4 and spec.dtype == "float32":
        layout = "NCHW" if spec.shape[1] == 3 else "NHWC" if spec.shape[3] == 3 else ""
    if not layout:
        raise KitError(
            f"{path}: takes {shown}; expected one float32 input of RGB pictures, [N, 3, H, W] or "
            "[N, H, W, 3]: use --task tensors, or --input-shape where the file does not say"
        )
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
    return layout, crop


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


def _labels(
    source: Source, given: Path | None, classes: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """One name per class (the user's, else the file's own, else those of an ``index_to_name.json``
    beside it, else numbers), and a note where nobody named them all.

    Raises:
        KitError: they are not as many as the model's classes, or one of the user's is unusable.
    """
    beside = source.path.with_name(INDEX)
    if given is not None:
        names, whose = _of_file(given, "--labels "), f"--labels {given}: {{}} lines"
    elif source.told.names:
        names, whose = source.told.names, f"{source.path}: it names {{}} classes itself"
    elif beside.is_file():
        names, whose = _of_file(beside, ""), f"{beside}: {{}} names"
    else:
        numbers = tuple(str(i) for i in range(classes))
        return numbers, ("no --labels, so classes are named by their numbers",)
    if len(names) != classes:
        hint = "" if given else ": give --labels"
        raise KitError(f"{whose.format(len(names))}; the model has {classes} classes{hint}")
    return names, ((f"class names are those of {beside}",) if whose.startswith(str(beside)) else ())


def _of_file(path: Path, flag: str) -> tuple[str, ...]:
    """Class names out of a text or JSON file.

    Raises:
        KitError: no such file, or an empty name.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        raise KitError(f"{flag}{path}: cannot be read ({reason})") from None
    lines = _of_json(path, text, flag) if path.suffix == ".json" else text.rstrip().splitlines()
    names = tuple(printable(line.strip()) for line in lines)
    if "" in names:
        line = names.index("") + 1
        raise KitError(f"{flag}{path}, line {line}: empty; expected a class name")
    return names


def _of_json(path: Path, text: str, flag: str) -> list[str]:
    """TorchServe's ``index_to_name.json``: names by number, ``{"0": "cat"}`` or ``{"0": [id,
    "cat"]}``, or a plain list of them.

    Raises:
        KitError: something else.
    """
    expected = 'expected {"0": "cat", "1": "dog"} or ["cat", "dog"]'
    try:
        told = json.loads(text)
    except ValueError as e:
        raise KitError(f"{flag}{path}: no JSON ({e}); {expected}") from None
    if isinstance(told, dict):
        if set(told) != {str(i) for i in range(len(told))}:
            raise KitError(f"{flag}{path}: numbers from 0 on do not name its keys; {expected}")
        told = [told[str(i)] for i in range(len(told))]
    listed = told if isinstance(told, list) else []
    names = [n[-1] if isinstance(n, list) and n else n for n in listed]
    if not names or not all(isinstance(n, str) for n in names):
        raise KitError(f"{flag}{path}: {expected}")
    return names


def _onnx(found: Model, asked: _Original, layout: str, mean: Three, std: Three) -> Model:
    """The model of an ONNX file: its graph with the added nodes, its batch freed if it can be."""
    graph = onnx.load(found.source.graph)
    (spec,) = found.inputs
    crop, batch, original = int(spec.shape[1]), spec.shape[0], found.original
    if asked.fixed is not None:
        free = _freed(graph, asked, crop)
        note = "any batch gives the same answers" if free else "batches are filled up to that"
        say(f"    note: the file is fixed at batch {asked.fixed}; {note}")
        if free is not None:
            batch = "batch"
            pixels.free_batch(graph)
            original = _answering(found.outputs[0], free)
    name = pixels.take_pixels(graph, crop, layout, mean, std)
    return replace(
        found,
        inputs=(replace(spec, name=name, shape=(batch, *spec.shape[1:])),),
        outputs=(replace(found.outputs[0], shape=(batch, *found.outputs[0].shape[1:])),),
        original=original,
        write_onnx=lambda path: onnx.save(graph, path),
    )


def _freed(graph: onnx.ModelProto, asked: _Original, crop: int) -> _Original | None:
    """The original with any batch; None where that fails or differs for one picture or three.

    It is asked instead of the file itself because one picture would cost a whole batch.
    """
    import onnxruntime as ort

    trial = onnx.ModelProto()
    trial.CopyFrom(graph)
    pixels.free_batch(trial)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    noise = _noise(crop, 3)
    wanted = asked.answers(noise)
    try:
        data = trial.SerializeToString()
        session = ort.InferenceSession(data, options, ["CPUExecutionProvider"])
        free = asked.with_any_batch(lambda given: {"scores": session.run(None, given)[0]})
        same = [np.allclose(free.answers(noise[:n]), wanted[:n], 1e-4, 9e-4) for n in (1, 3)]
    except Exception:  # ONNX Runtime raises many types for a graph that wants its own batch
        return None
    return free if all(same) else None


def _answering(output: TensorSpec, asked: _Original) -> Callable[[Arrays], Arrays]:
    return lambda given: {output.name: asked.answers(next(iter(given.values())))}


def _noise(side: int, count: int = 2) -> NDArray[np.uint8]:
    """Pictures of random pixels."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
