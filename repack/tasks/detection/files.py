"""Models of boxes in files with their own network: told by the layout of what they answer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from handlers.errors import KitError
from handlers.heads import SETTING, Head
from handlers.passport import TensorSpec
from repack.model import Export, Model
from repack.onnx import suppression
from repack.onnx.pixels import Normal
from repack.options import IMAGENET_STD, MAX_SIDE, DetectorOptions, Options, Shapes
from repack.raw_tensors import tensors
from repack.sources.source import Source
from repack.tasks import ended, labels, pictures
from repack.tasks.detection import layouts
from repack.tasks.detection.layouts.base import Layout, Probe, Rows
from repack.tasks.ended import Ending

USUAL = 640
"""Side of the pictures where neither the file nor the user says."""


def make(source: Source, options: Options, task: str = "detection") -> Model:
    """A detector on pictures of one size, or another task whose answers begin with boxes.

    Raises:
        KitError: no detector of RGB pictures, a layout that is not known, or options that
            contradict the file.
    """
    if source.engine is not None:
        raise KitError(f"{source.path}: {source.called} holds no detector: use --task tensors")
    if source.task not in {"tensors", *layouts.tasks()}:
        raise KitError(
            f"{source.path}: {source.network} is made for {source.task}: leave --task out"
        )
    asked = options.detector
    base, plain, sides = of_one_size(source, options)
    ends, rows, normal, notes = _told(base, asked, task, plain, sides)
    original = pictures.Asked(base, normal, partial(ended.answers, rows))
    if ends.names and not source.told.names:
        source = replace(source, told=replace(source.told, names=ends.names))
    names, unnamed = labels.named(source, asked.labels, rows.head.classes)
    head = rows.head
    built = ended.of(original, Ending(rows, names_of(head), ends.batches, head.ranked), sides)
    batch, shapes = built.batch, [list(shape) for shape in built.shapes]
    spec = TensorSpec(built.name, "uint8", (batch, *sides, 3), (0, 255), "NHWC")
    if not ends.batches:
        shapes[0][0] = "any"
    outputs = tuple(
        TensorSpec(name, "float32", (batch, *shape))
        for name, shape in zip(names_of(head), shapes, strict=True)
    )
    settings = {
        "confidence": asked.confidence or ends.confidence,
        "iou": asked.iou or ends.iou,
        "max_detections": asked.max_detections,
        "resize_mode": asked.mode or ends.mode,
        **pictures.settings(normal),
        SETTING: head.to_setting(),
    }
    return Model(
        replace(source, task=task, labels=names),
        (spec,),
        outputs,
        built.module,
        lambda given: dict(zip(names_of(head), built.asked.answers(given[spec.name]), strict=True)),
        settings=settings,
        output="boxes",
        write_onnx=built.write,
        export=Export(built.module, names_of(head), partial(_finish, settings, rows), "detections")
        if head.name in suppression.TAILS
        else None,
        on_gpu=built.on_gpu(),
        own_types=base.own_types,
        half=normal.dtype == "float16",
        sorts=head.ranked,
        notes=(*base.notes, *pictures.notes(normal), *notes, *unnamed),
    )


def of_one_size(source: Source, options: Options) -> tuple[Model, Normal, tuple[int, int]]:
    """A file as a model of pictures of one height and width, what its input is, and these sides.

    Raises:
        KitError: it takes something else, another size, or options say what pictures do not have.
    """
    if options.input_types or options.input_values:
        raise KitError(
            "the model takes pictures: leave the types of --input-shape and --input-values out, "
            "or use --task tensors"
        )
    base = _sized(source, options.input_shapes, options.detector)
    plain = pictures.taken(base)
    axes = dict(zip(plain.layout, base.inputs[0].shape, strict=True))
    sides = _sides(base, axes, options.detector)
    spec = replace(base.inputs[0], shape=_shape(axes, sides))
    return replace(base, inputs=(spec,)), plain, sides


def _sized(source: Source, shapes: Shapes, asked: DetectorOptions) -> Model:
    """The file as a model of tensors, with the input's size where it does not carry one."""
    if source.module is not None and not shapes and not source.told.sides:
        shapes = {"images": ("batch", source.told.channels, *(asked.sides or (USUAL, USUAL)))}
    elif source.module is not None and not shapes and asked.sides:
        shapes = {"images": (source.told.batch or "batch", source.told.channels, *asked.sides)}
    return tensors(source, shapes)


def _sides(base: Model, axes: dict[str, int | str], asked: DetectorOptions) -> tuple[int, int]:
    """Height and width of the input.

    Raises:
        KitError: the file's own differ from those that were asked for, or are too large.
    """
    own = (axes["H"], axes["W"])
    wanted = asked.sides or tuple(n if isinstance(n, int) else USUAL for n in own)
    path, stride = base.source.path, base.source.told.stride or 1
    if any(isinstance(n, int) and n != side for n, side in zip(own, wanted, strict=True)):
        fixed = "x".join(map(str, own))
        raise KitError(
            f"{path}: takes pictures of {fixed}, not of --imgsz {asked.shown}: leave it out, or "
            "export the file for that size"
        )
    height, width = wanted
    if max(height, width) > MAX_SIDE:
        raise KitError(f"--imgsz {height}x{width}: expected at most {MAX_SIDE}")
    if height % stride or width % stride:
        raise KitError(
            f"--imgsz {height}x{width}: expected multiples of {stride}, the network's stride"
        )
    return height, width


def _shape(axes: dict[str, int | str], sides: tuple[int, int]) -> tuple[int | str, ...]:
    known = {**axes, "H": sides[0], "W": sides[1]}
    return tuple(known[axis] for axis in axes)


def _told(
    base: Model, asked: DetectorOptions, task: str, plain: Normal, sides: tuple[int, int]
) -> tuple[Layout, Rows, Normal, list[str]]:
    """The layout of the answers, and how pictures are prepared.

    What the file says of its mean and standard deviation comes before the layout's; the network is
    asked with values of either kind, since only shapes count here.
    """
    source = base.source
    mean, std = asked.mean or plain.mean, asked.std or plain.std
    trial = pictures.normalised(source.path, plain, mean, std)
    asking = pictures.Asked(base, trial, lambda outputs, count: outputs[:1])
    try:
        outputs = asking.named(pictures.noise(sides, asking.fixed or 1))
    except KitError as e:
        if asked.sides is None:
            raise
        why = str(e).partition(": give ")[0]
        raise KitError(
            f"{why}: --imgsz {asked.shown} is a size that the file does not do"
        ) from None
    known = len(source.told.names) or labels.count(asked.labels)
    probe = Probe(outputs, sides, known, source.told.points)
    ends, rows = layouts.found(source.path, asked.layout, task, probe)
    own = asked.mean or source.told.mean, asked.std or source.told.std
    usual = (
        ((0, 0, 0), (1, 1, 1)) if plain.grey and ends.std == IMAGENET_STD else (ends.mean, ends.std)
    )
    normal = pictures.normalised(
        source.path, plain, own[0] or usual[0], own[1] or usual[1], ends.bgr
    )
    assumed = [
        *([] if asked.mode else [f"{ends.mode} (--resize-mode)"]),
        *([] if all(own) else ["its mean and standard deviation (--mean, --std)"]),
    ]
    notes = [f"boxes are told by the layout {ends.name}: {ends.shown}"]
    if not ends.stated and assumed:
        notes.append(f"assumed, because nobody states it: {', '.join(assumed)}")
    return ends, rows, normal, notes


def names_of(head: Head) -> tuple[str, ...]:
    """Of the outputs that the gate compares."""
    return *head.raw, *head.beside


def _finish(settings: dict[str, Any], rows: Rows, exported: Path, finished: Path) -> None:
    limits = (settings["confidence"], settings["iou"], settings["max_detections"])
    suppression.append(exported, finished, rows.head, *limits)
