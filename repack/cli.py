"""The command line of ``model_repack.py``: its flags, checked and turned into ``Options``."""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from handlers.errors import KitError
from repack.archive import VERSION
from repack.backends import TRT
from repack.flags import ALIASES, parser
from repack.inputs import PLACE
from repack.options import (
    MAX_SIDE,
    ClassifierOptions,
    DetectorOptions,
    GpuOptions,
    Options,
    Shape,
    SourceOptions,
    Values,
)
from repack.tasks import TASKS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MAX_NAME = 100


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The flags, checked.

    Raises:
        KitError: flags that contradict each other, or a value that cannot be.
    """
    given = parser().parse_args(arguments)
    if not NAME.fullmatch(given.name):
        raise KitError(f"--name {given.name!r}: expected letters, digits, '.', '_' and '-'")
    if len(given.name) > MAX_NAME:
        raise KitError(f"--name of {len(given.name)} letters: expected at most {MAX_NAME}")
    if not VERSION.fullmatch(given.version):
        raise KitError(f"--version {given.version!r}: expected such as 1.0")
    if given.precision == "int8" and given.calibration is None:
        raise KitError("--precision int8 needs inputs to calibrate on: add --calibration DIR")
    shapes, types = _inputs(given.input_shape)
    words = sys.argv[1:] if arguments is None else list(arguments)
    return Options(
        source=SourceOptions(
            given.weights,
            given.original,
            given.network,
            _folds(given.folds),
            bool(given.mirror),
            given.volumes,
            given.tensorflow_python,
        ),
        name=given.name,
        version=given.version,
        model_store=given.model_store,
        task=_task(given.task, given.labels),
        backend=_backend(given.trt, given.backend),
        precision=ALIASES.get(given.precision, given.precision),
        samples=given.samples,
        calibration=given.calibration,
        input_shapes=shapes,
        input_types=types,
        input_values=_values(given.input_values),
        symbolic=given.symbolic,
        detector=_detector(given),
        classifier=_classifier(given),
        gpu=_gpu(given),
        command=shlex.join(["python", "repack/model_repack.py", *words]),
    )


def _task(task: str, labels: Path | None) -> str:
    if labels is None or task == "auto" or TASKS[task].labelled:
        return task
    raise KitError(f"--task {task} has no use for --labels: leave one of them out")


def _backend(trt: int | None, backend: str | None) -> str:
    if trt is None:
        return backend or "auto"
    if backend is not None:
        raise KitError(
            f"--trt {trt} and --backend {backend} both name what runs the model: give one"
        )
    if trt and not Path("/dev/nvidia0").exists():
        raise KitError("--trt 1 needs an NVIDIA GPU, and this machine has none: use --backend auto")
    return TRT[trt]


def _folds(given: str | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not re.fullmatch(r"all|\d+(,\d+)*", given):
        raise KitError(f"--folds {given!r}: expected such as 0,1,2 or all")
    return tuple(dict.fromkeys(given.split(",")))


def _detector(given: argparse.Namespace) -> DetectorOptions:
    for flag, value in (("--conf", given.conf), ("--iou", given.iou)):
        if value is not None and not 0 < value < 1:
            raise KitError(f"{flag} {value}: expected a number between 0 and 1")
    if given.max_det < 1:
        raise KitError(f"--max-det {given.max_det}: expected at least 1")
    return DetectorOptions(
        _imgsz(given.imgsz),
        given.conf,
        given.iou,
        given.max_det,
        given.layout,
        given.resize_mode,
        given.labels,
        given.mean,
        given.std,
    )


def _imgsz(text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,6}(x\d{1,6})?", text):
        raise KitError(f"--imgsz {text!r}: expected such as 640, or height and width as 384x640")
    sides = tuple(int(part) for part in text.split("x"))
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _classifier(given: argparse.Namespace) -> ClassifierOptions:
    for flag, value in (("--resize", given.resize), ("--crop", given.crop)):
        if value is not None and not 1 <= value <= MAX_SIDE:
            raise KitError(f"{flag} {value}: expected 1 to {MAX_SIDE} pixels")
    if given.top_k < 1:
        raise KitError(f"--top-k {given.top_k}: expected at least 1")
    if given.std is not None and not all(s > 0 for s in given.std):
        shown = ",".join(f"{v:g}" for v in given.std)
        raise KitError(f"--std {shown}: expected numbers above 0")
    return ClassifierOptions(
        given.labels,
        given.mean,
        given.std,
        given.resize,
        given.crop,
        given.top_k,
        given.scores,
    )


def _gpu(given: argparse.Namespace) -> GpuOptions:
    shapes = [_fixed_shapes(flag, getattr(given, flag)) for flag in ("min", "opt", "max")]
    if any(shapes) and not all(shapes):
        raise KitError("--min, --opt and --max belong together: give all three for each input")
    if any(set(s) != set(shapes[0]) for s in shapes):
        raise KitError("--min, --opt and --max name different inputs")
    for name in shapes[0]:
        low, usual, high = (s[name] for s in shapes)
        if not len(low) == len(usual) == len(high) or not all(
            a <= b <= c for a, b, c in zip(low, usual, high, strict=True)
        ):
            shown = " ".join("x".join(map(str, s)) for s in (low, usual, high))
            raise KitError(f"--min --opt --max {shown}: expected each axis to grow or stay")
    if given.workspace < 1:
        raise KitError(f"--workspace {given.workspace}: expected MiB, at least 1")
    return GpuOptions(
        given.via,
        () if shapes[0] else _batches(given.batch),
        shapes[0] or None,
        shapes[1] or None,
        shapes[2] or None,
        given.level,
        given.workspace,
        given.engine_cache,
        given.rebuild,
        given.rebuild_on_load,
    )


def _batches(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(re.fullmatch(r"[1-9]\d{0,3}", part) for part in parts):
        raise KitError(f"--batch {text!r}: expected sizes such as 1,4,16")
    return tuple(sorted({int(part) for part in parts}))


def _fixed_shapes(flag: str, given: Sequence[str]) -> dict[str, Shape]:
    found = {}
    for text in given:
        name, _, axes = text.rpartition("=")
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", axes):
            raise KitError(f"--{flag} {text!r}: expected [NAME=]1x3x640x640")
        found[name] = tuple(int(n) for n in axes.split("x"))
    return found


TYPES = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8"),
)


def _inputs(given: Sequence[str]) -> tuple[dict[str, tuple[int | str, ...]], dict[str, str]]:
    """Shapes and types by input name."""
    shapes: dict[str, tuple[int | str, ...]] = {}
    types: dict[str, str] = {}
    for i, text in enumerate(given):
        name, _, told = text.rpartition("=")
        kind, _, axes = told.rpartition(":")
        parts = axes.split("x")
        if kind and kind not in TYPES:
            raise KitError(f"--input-shape {text!r}: no type {kind!r}; there is {', '.join(TYPES)}")
        if axes and not all(re.fullmatch(r"[1-9]\d*|[A-Za-z_]+", part) for part in parts):
            raise KitError(
                f"--input-shape {text!r}: expected [NAME=][TYPE:]1x3x224x224, or words for free "
                "axes; nothing after TYPE: is a single value"
            )
        name = name or PLACE.format(i)
        shapes[name] = tuple(int(p) if p.isdigit() else p for p in parts if p)
        if kind:
            types[name] = kind
    return shapes, types


def _values(given: Sequence[str]) -> dict[str, Values]:
    """What inputs may hold, by their names."""
    found = {}
    for i, text in enumerate(given):
        name, _, told = text.rpartition("=")
        between = ":" in told
        parts = told.split(":" if between else ",")
        try:
            values = tuple(float(part) for part in parts)
            if not all(map(math.isfinite, values)) or (between and not values[0] < values[1]):
                raise ValueError
            low, high = values if between else (0.0, 0.0)
        except ValueError:
            raise KitError(
                f"--input-values {text!r}: expected [NAME=]8000,16000 or [NAME=]0:29999"
            ) from None
        found[name or PLACE.format(i)] = Values((low, high)) if between else Values(None, values)
    return found
