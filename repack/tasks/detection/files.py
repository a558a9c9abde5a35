"""Models of boxes in files with their own network: told by the layout of what they answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handlers.errors import KitError
from handlers.heads import SETTING, Head
from handlers.passport import TensorSpec
from handlers.runtimes.torchscript import flatten
from repack.model import Export, GpuModel, Model
from repack.onnx import appended, pixels, suppression
from repack.onnx.pixels import Normal
from repack.options import IMAGENET_STD, MAX_SIDE, DetectorOptions, Options, Shapes
from repack.raw_tensors import tensors
from repack.sources.source import Source
from repack.tasks import labels, pictures
from repack.tasks.detection import layouts
from repack.tasks.detection.layouts.base import Layout, Probe, Rows

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
    if options.input_types or options.input_values:
        raise KitError(
            "a detector takes pictures: leave the types of --input-shape and --input-values out, "
            "or use --task tensors"
        )
    asked = options.detector
    base = _sized(source, options.input_shapes, asked)
    plain = pictures.taken(base)
    axes = dict(zip(plain.layout, base.inputs[0].shape, strict=True))
    sides = _sides(base, axes, asked)
    base = replace(base, inputs=(replace(base.inputs[0], shape=_shape(axes, sides)),))
    ends, rows, normal, notes = _told(base, asked, task, plain, sides)
    original = pictures.Asked(base, normal, partial(_rows, rows))
    if ends.names and not source.told.names:
        source = replace(source, told=replace(source.told, names=ends.names))
    names, unnamed = labels.named(source, asked.labels, rows.head.classes)
    build = _OfGraph if base.module is None else _OfModule
    built, head = build(original, ends, rows, sides), rows.head
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
        export=built.export(partial(_finish, settings, rows))
        if head.name in suppression.TAILS
        else None,
        on_gpu=built.on_gpu(),
        own_types=base.own_types,
        half=normal.dtype == "float16",
        sorts=head.ranked,
        notes=(*base.notes, *pictures.notes(normal), *notes, *unnamed),
    )


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


def _rows(rows: Rows, outputs: Sequence[NDArray[Any]], count: int = 0) -> list[NDArray[Any]]:
    with torch.inference_mode():
        found = rows(*(torch.from_numpy(value) for value in outputs))
    return [part.numpy() for part in (found if isinstance(found, tuple) else (found,))]


def _finish(settings: dict[str, Any], rows: Rows, exported: Path, finished: Path) -> None:
    limits = (settings["confidence"], settings["iou"], settings["max_detections"])
    suppression.append(exported, finished, rows.head, *limits)


class _OfGraph:
    """An ONNX file's graph, from pixels to rows.

    Attributes:
        asked: the original, with any batch where the file can be made to take it.
        batch: the first axis of the input.
        name: of the input.
        shapes: of one picture's answers.
        module: what is traced; none.
    """

    module = None

    def __init__(self, asked: pictures.Asked, ends: Layout, rows: Rows, sides: tuple[int, int]):
        self.graph = onnx.load(asked.base.source.graph)
        self.rows, self.sides = rows, sides
        pixels.set_sides(self.graph, sides, asked.normal.layout)
        pixels.widen(self.graph)
        if asked.fixed is not None:
            self.asked = pictures.free(self.graph, asked, sides)
        else:
            self.asked = pictures.one_by_one(asked, sides, ends.batches)
            if self.asked.fixed is not None:
                pixels.fix_batch(self.graph, self.asked.fixed)
        self.batch = self.asked.fixed or "batch"
        self.name = pixels.input_name(self.graph)
        self.example = self.asked.outputs(pictures.noise(sides, self.asked.fixed or 2))
        self.shapes = [part.shape[1:] for part in _rows(rows, self.example)]

    def write(self, path: Path) -> None:
        self._write(path, pixels.take_pixels)

    def export(self, finish: Callable[[Path, Path], None]) -> Export:
        return Export(None, names_of(self.rows.head), finish, "detections")

    def on_gpu(self) -> GpuModel:
        return _on_gpu(self, None, write=lambda path: self._write(path, pixels.take_planes))

    def _write(self, path: Path, front: Callable[..., None]) -> None:
        graph = _copy(self.graph)
        front(graph, self.sides, self.asked.normal)
        free = isinstance(self.batch, str)
        head = self.rows.head
        whole = appended.append(graph, self.rows, self.example, names_of(head), free)
        if not head.ranked:
            for output, shape in zip(whole.graph.output, self.shapes, strict=True):
                axes = output.type.tensor_type.shape.dim
                for axis, size in zip(axes[1:], shape, strict=True):
                    axis.dim_value = size
        onnx.save(whole, path)


class _OfModule:
    """The same of a TorchScript file's module, which is traced."""

    write = None
    name = "images"

    def __init__(self, asked: pictures.Asked, ends: Layout, rows: Rows, sides: tuple[int, int]):
        if asked.fixed is None:
            asked = pictures.one_by_one(asked, sides, ends.batches)
        self.asked, self.rows, self.sides = asked, rows, sides
        self.batch = asked.fixed or "batch"
        self.whole = _Whole(cast(nn.Module, asked.base.module), rows)
        self.module = pictures.FromPixels(self.whole, asked.normal).eval()
        example = asked.outputs(pictures.noise(sides, asked.fixed or 2))
        self.shapes = [part.shape[1:] for part in _rows(rows, example)]

    def export(self, finish: Callable[[Path, Path], None]) -> Export:
        return Export(self.module, names_of(self.rows.head), finish, "detections")

    def on_gpu(self) -> GpuModel:
        planes = _FromPlanes(self.whole, self.asked.normal).eval()
        return _on_gpu(self, planes, channels_last=True)


def _on_gpu(built: _OfGraph | _OfModule, module: nn.Module | None, **more: Any) -> GpuModel:
    shapes: Shapes = {built.name: (built.batch, 3, *built.sides)}
    types, outputs = {built.name: "float32"}, names_of(built.rows.head)
    return GpuModel(module, shapes, types, outputs, pixels=(built.name,), **more)


class _Whole(nn.Module):
    """A network and what makes rows of its answers."""

    def __init__(self, network: nn.Module, rows: Rows):
        super().__init__()
        self.network = network
        self.rows = rows

    def forward(self, x: Tensor) -> Any:
        outputs = flatten(self.network(x)).values()
        return self.rows(*(v.float() if v.dtype == torch.float16 else v for v in outputs))


class _FromPlanes(pictures.FromPixels):
    """The same, of ``[N, 3, H, W]`` in 0..1."""

    def forward(self, planes: Tensor) -> Any:
        return super().forward(planes.permute(0, 2, 3, 1) * 255)


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    return made
