"""The flags of ``model_repack.py``, as argparse has them."""

from __future__ import annotations

import argparse
import re
from fractions import Fraction
from pathlib import Path

from handlers.engines.build import LEVELS
from handlers.letterbox import MODES
from repack.backends import BACKENDS, PRECISIONS, TRT
from repack.options import (
    ROOT,
    ClassifierOptions,
    DetectorOptions,
    GpuOptions,
    Options,
    SourceOptions,
    Three,
)
from repack.tasks import TASKS
from repack.tasks.detection.layouts import LAYOUTS

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
