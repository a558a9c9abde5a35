"""The command line of ``model_repack.py``: its flags, checked and turned into ``Options``."""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from handlers.engines.build import LEVELS
from handlers.errors import KitError
from handlers.letterbox import MODES
from repack.archive import VERSION
from repack.backends import BACKENDS, PRECISIONS, TRT
from repack.inputs import PLACE
from repack.options import (
    MAX_SIDE,
    ROOT,
    ClassifierOptions,
    DetectorOptions,
    GpuOptions,
    Options,
    Shape,
    SourceOptions,
    Three,
    Values,
)
from repack.tasks import TASKS
from repack.tasks.detection.layouts import LAYOUTS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MAX_NAME = 100
ALIASES = {"fp32": "f32", "fp16": "f16"}
VIAS = ("auto", "torch2trt", "onnx")


class _Help(argparse.HelpFormatter):
    """Shows a default where there is one that says something, folders as seen from the checkout."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if default in (None, False, "", [], argparse.SUPPRESS) or "default" in text:
            return text
        if isinstance(default, Path) and default.is_relative_to(ROOT):
            default = default.relative_to(ROOT)
        if isinstance(default, tuple):
            default = ",".join(map(str, default))
        return f"{text} (default: {default})".replace("%", "%%")


class _Info(argparse.Action):
    """Shows what this machine has and ends, whatever else is asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from repack.backends.tensorrt import info

        parser.exit(info.main())


def parser() -> argparse.ArgumentParser:
    """The command line's flags."""
    found = argparse.ArgumentParser(
        prog="model_repack.py",
        description="Turn a checkpoint into a verified TorchServe archive.",
        epilog="Exit codes: 0 done, 1 a mistake in what was given, 2 wrong flags, 3 the converted "
        "model does not answer like the original (nothing is written or replaced then).",
        formatter_class=_Help,
    )
    o, s = Options(), SourceOptions()
    add = found.add_argument
    add(
        "--weights",
        type=Path,
        default=s.weights,
        metavar="FILE",
        help="checkpoint, ONNX or TorchScript file, TensorRT engine, MONAI bundle, folder of a "
        "SavedModel or of nnU-Net results (default: the shipped detector)",
    )
    add("--name", default=o.name, help="the model's name in TorchServe and of the archive")
    add("--version", default=o.version, help="the model's version in TorchServe")
    add(
        "--task",
        default=o.task,
        choices=["auto", *TASKS],
        help="what the model does; auto is what its file says, or classification with --labels",
    )
    add(
        "--backend",
        choices=["auto", *BACKENDS],
        help="what runs the model; auto measures all that this machine is for and keeps the "
        "fastest that passes the gate (default: auto)",
    )
    add(
        "--precision",
        default=o.precision,
        choices=["auto", *PRECISIONS, *ALIASES],
        help="auto takes every one that pays; int8 needs --calibration; best is TensorRT's choice",
    )
    add("--trt", type=int, choices=list(TRT), help="1: TensorRT on an NVIDIA GPU; 0: TorchScript")
    add(
        "--samples",
        type=Path,
        metavar="DIR",
        help="inputs that the gate compares on: pictures, volumes, or .npy and .npz files; with "
        "labels the accuracy is compared too",
    )
    add("--calibration", type=Path, metavar="DIR", help="inputs that int8 is calibrated on")
    add(
        "--model-store",
        type=Path,
        default=o.model_store,
        metavar="DIR",
        help="folder that the archive goes into",
    )
    add(
        "--input-shape",
        action="append",
        default=[],
        metavar="[NAME=][TYPE:]1x3x224x224",
        help="an input's shape, and type (such as int64), where the file does not carry it; a word "
        "is an axis of any length",
    )
    add(
        "--input-values",
        action="append",
        default=[],
        metavar="[NAME=]8000,16000",
        help="what an input may hold, where not every value means something: these values, or "
        "LOWEST:HIGHEST",
    )
    add(
        "--symbolic",
        type=Path,
        metavar="FILE.py",
        help="Python file, run as your own code, that says how operators unknown to PyTorch's "
        "exporter are written in ONNX",
    )
    add("--info", action=_Info, nargs=0, help="show TensorRT, CUDA, driver and GPU, and end")
    _source_flags(found)
    _detector_flags(found)
    _classifier_flags(found)
    _gpu_flags(found)
    return found


def _source_flags(found: argparse.ArgumentParser) -> None:
    add = found.add_argument_group("reading a checkpoint").add_argument
    add("--network", metavar="MODULE:CLASS", help="the network of a plain state dict")
    add(
        "--folds",
        metavar="0,1",
        help="of an nnU-Net results folder; all that are there if left out",
    )
    add("--mirror", type=int, choices=[0, 1], default=0, help="1: mirrored windows too, as nnU-Net")
    add("--volumes", type=Path, metavar="YAML", help="how a plain net of volumes was trained")
    add(
        "--tensorflow-python",
        type=Path,
        metavar="PYTHON",
        help="the Python that has TensorFlow and tf2onnx, for SavedModels",
    )
    add(
        "--original",
        type=Path,
        metavar="FILE",
        help="checkpoint or ONNX file that an engine of --weights is compared with",
    )


def _detector_flags(found: argparse.ArgumentParser) -> None:
    add = found.add_argument_group("detectors").add_argument
    d = DetectorOptions()
    add(
        "--imgsz",
        metavar="PIXELS",
        help="side of the square input, or height and width as 384x640 (default: the file's, or "
        "640)",
    )
    add(
        "--layout",
        choices=["auto", *LAYOUTS],
        default=d.layout,
        help="how the network of an ONNX or TorchScript file answers boxes; auto tells by the "
        "shapes",
    )
    add(
        "--resize-mode",
        choices=MODES,
        help="how pictures are fitted in: centred on grey, at the left and the top of grey, or "
        "stretched (default: the layout's; stretched for semantic)",
    )
    add(
        "--conf",
        type=float,
        metavar="0..1",
        help="least confidence of an answered box (default: the layout's)",
    )
    add(
        "--iou",
        type=float,
        metavar="0..1",
        help="overlap above which boxes of a class are merged (default: the family's, 0.45 or 0.7)",
    )
    add(
        "--max-det",
        type=int,
        default=d.max_detections,
        metavar="N",
        help="most boxes per picture",
    )


def _classifier_flags(found: argparse.ArgumentParser) -> None:
    add = found.add_argument_group("classifiers").add_argument
    c = ClassifierOptions()
    add("--labels", type=Path, metavar="FILE", help="class names, one a line, in the model's order")
    for flag in ("--mean", "--std"):
        told = "of values 0 to 1 (default: the file's, or ImageNet's)"
        add(flag, type=_three, metavar="R,G,B", help=told)
    add("--resize", type=int, metavar="PIXELS", help="shorter side (default: 256/224 of the crop)")
    add("--crop", type=int, metavar="PIXELS", help="side of the centre (default: the model's, 224)")
    add("--top-k", type=int, default=c.top_k, metavar="K", help="classes per answer")
    add(
        "--scores",
        default=c.scores,
        choices=["auto", "logits", "probabilities"],
        help="what the model answers; auto looks at its answers",
    )


def _gpu_flags(found: argparse.ArgumentParser) -> None:
    add = found.add_argument_group("on an NVIDIA GPU").add_argument
    g = GpuOptions()
    add(
        "--via",
        choices=VIAS,
        default=g.via,
        help="how a TensorRT engine is made; auto is torch2trt where it is installed and its "
        "engine passes the gate, else onnx",
    )
    add(
        "--batch",
        default=",".join(map(str, g.batches)),
        metavar="1,4,16",
        help="batch sizes that are built; smaller ones are padded",
    )
    for flag in ("--min", "--opt", "--max"):
        add(
            flag,
            action="append",
            default=[],
            metavar="[NAME=]1x3x640x640",
            help=f"an input's {flag[2:]} shape in TensorRT's optimization profile: one engine for "
            "all shapes between, not --batch",
        )
    add(
        "--level",
        type=int,
        choices=LEVELS,
        default=g.level,
        help="TensorRT's builder optimization level: how long it looks for faster kernels",
    )
    add(
        "--workspace",
        type=int,
        default=g.workspace_mb,
        metavar="MIB",
        help="device memory that one kernel may work in",
    )
    add(
        "--engine-cache",
        type=Path,
        default=g.engine_cache,
        metavar="DIR",
        help="engines built before",
    )
    add("--rebuild", action="store_true", help="build engines that the cache has, too")
    add(
        "--rebuild-on-load",
        action="store_true",
        help="pack the ONNX file: where TensorRT or the GPU differ, a worker builds once",
    )


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


def _three(text: str) -> Three:
    """One number for all channels or three, each as ``0.5`` or ``1/255``."""
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(re.fullmatch(r"[\d./]+", p.strip()) for p in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected one number or three, such as 0.5 or 0.485,0.456,0.406"
        )
    try:
        values = [float(Fraction(p.strip())) for p in parts]
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers such as 0.5") from None
    red, green, blue = values * 3 if len(values) == 1 else values
    return red, green, blue


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
