"""The command line of ``model_repack.py``: its flags, and what it shows."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from handlers.errors import KitError
from repack import cli_classification, cli_gpu
from repack.archive import VERSION
from repack.cli_classification import ClassifierOptions
from repack.cli_gpu import GpuOptions

if TYPE_CHECKING:
    from repack.candidates import Candidate
    from repack.gate import GateResult

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "examples" / "shapes" / "yolov5n_shapes.pt"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MAX_NAME = 100
BACKENDS = (
    "torchscript", "onnxruntime", "openvino", "tensorrt", "aotinductor", "torchscript-cuda",
)  # fmt: skip
ALIASES = {"fp32": "f32", "fp16": "f16"}


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    weights: Path
    name: str
    version: str
    imgsz: int
    backend: str
    precision: str
    samples: Path | None
    calibration: Path | None
    model_store: Path
    network: str | None
    input_shapes: dict[str, tuple[int | str, ...]]
    confidence: float
    iou: float
    max_detections: int
    classifier: ClassifierOptions | None
    symbolic: Path | None
    tensorflow_python: Path | None
    folds: tuple[str, ...] | None
    mirror: bool
    volumes: Path | None
    original: Path | None
    command: str
    gpu: GpuOptions
    info: bool


def parser() -> argparse.ArgumentParser:
    """The command line's flags."""
    found = argparse.ArgumentParser(
        prog="model_repack.py",
        description="Turn a checkpoint into a verified TorchServe archive.",
        epilog="Exit codes: 0 done, 1 a mistake in what was given, 2 wrong flags, 3 the converted "
        "model does not answer like the original (nothing is written or replaced then).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = found.add_argument
    add(
        "--weights",
        type=Path,
        default=SHIPPED,
        help="checkpoint, ONNX file or TensorRT engine, MONAI bundle, folder of a SavedModel or of "
        "nnU-Net results",
    )
    add(
        "--original",
        type=Path,
        metavar="FILE",
        help="checkpoint or ONNX file that an engine of --weights is compared with",
    )
    add("--name", default="fd1", help="the model's name in TorchServe and of the archive")
    add("--version", default="1.0", help="the model's version in TorchServe")
    add("--imgsz", type=int, default=640, help="side of a detector's square input, pixels")
    add(
        "--backend",
        choices=["auto", *BACKENDS],
        help="what runs the "
        "model; auto measures all and keeps the fastest that passes the gate (default: auto)",
    )
    add(
        "--precision",
        default="auto",
        choices=["auto", "f32", "f16", "bf16", "int8", "best", "fp32", "fp16"],
        help="auto takes every one that pays; int8 needs --calibration; best is TensorRT's choice",
    )
    add("--trt", type=int, choices=[0, 1], help="1: TensorRT on an NVIDIA GPU; 0: TorchScript")
    add(
        "--samples",
        type=Path,
        metavar="DIR",
        help="pictures (.npy/.npz for other models) that the "
        "gate compares on, with YOLO label files for mAP",
    )
    add(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="pictures or arrays that int8 is calibrated on",
    )
    add("--model-store", type=Path, default=ROOT / "model_store", metavar="DIR")
    add("--network", metavar="MODULE:CLASS", help="the network of a plain state dict")
    add(
        "--folds",
        metavar="0,1",
        help="of an nnU-Net results folder; all that are there if left out",
    )
    add("--mirror", type=int, choices=[0, 1], default=0, help="1: mirrored windows too, as nnU-Net")
    add("--volumes", type=Path, metavar="YAML", help="how a plain net of volumes was trained")
    add(
        "--input-shape",
        action="append",
        default=[],
        metavar="[NAME=]1x3x224x224",
        help="an input's shape, where the file does not carry it; a word is an axis of any length",
    )
    add("--info", action="store_true", help="show TensorRT, CUDA, driver and GPU, and end")
    cli_gpu.add_flags(found)
    add("--conf", type=float, default=0.25, help="least confidence of an answered box")
    add("--iou", type=float, default=0.45, help="overlap above which boxes of a class are merged")
    add("--max-det", type=int, default=300, help="most boxes per picture")
    add(
        "--symbolic",
        type=Path,
        metavar="FILE.py",
        help="Python file, run as your own code, that says how operators unknown to PyTorch's "
        "exporter are written in ONNX",
    )
    add(
        "--tensorflow-python",
        type=Path,
        metavar="PYTHON",
        help="the Python that has TensorFlow and tf2onnx, for SavedModels",
    )
    cli_classification.add_flags(found)
    return found


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The flags, checked.

    Raises:
        KitError: flags that contradict each other, or a value that cannot be.
    """
    given = parser().parse_args(arguments)
    if not NAME.fullmatch(given.name):
        raise KitError(f"--name {given.name!r}: expected letters, digits, '.', '_' and '-'")
    for flag, value in (("--conf", given.conf), ("--iou", given.iou)):
        if not 0 < value < 1:
            raise KitError(f"{flag} {value}: expected a number between 0 and 1")
    if len(given.name) > MAX_NAME:
        raise KitError(f"--name of {len(given.name)} letters: expected at most {MAX_NAME}")
    if not VERSION.fullmatch(given.version):
        raise KitError(f"--version {given.version!r}: expected such as 1.0")
    if given.precision == "int8" and given.calibration is None:
        raise KitError("--precision int8 needs inputs to calibrate on: add --calibration DIR")
    if given.max_det < 1:
        raise KitError(f"--max-det {given.max_det}: expected at least 1")
    words = sys.argv[1:] if arguments is None else list(arguments)
    return Options(
        weights=given.weights,
        name=given.name,
        version=given.version,
        imgsz=given.imgsz,
        backend=_backend(given.trt, given.backend),
        precision=ALIASES.get(given.precision, given.precision),
        samples=given.samples,
        calibration=given.calibration,
        model_store=given.model_store,
        network=given.network,
        input_shapes=_shapes(given.input_shape),
        confidence=given.conf,
        iou=given.iou,
        max_detections=given.max_det,
        classifier=cli_classification.asked(given),
        symbolic=given.symbolic,
        tensorflow_python=given.tensorflow_python,
        folds=_folds(given.folds),
        mirror=bool(given.mirror),
        volumes=given.volumes,
        original=given.original,
        command=shlex.join(["python", "repack/model_repack.py", *words]),
        gpu=cli_gpu.read(given),
        info=given.info,
    )


def _folds(given: str | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not re.fullmatch(r"all|\d+(,\d+)*", given):
        raise KitError(f"--folds {given!r}: expected such as 0,1,2 or all")
    return tuple(dict.fromkeys(given.split(",")))


def table(candidates: Sequence[Candidate]) -> str:
    """What was tried: precision found, error, mAP where known, time, verdict."""
    width = max(12, *(len(c.name) + 2 for c in candidates))
    several = any(c.per_item_ms != c.ms for c in candidates)
    each = f"{'ms/item':>9}" if several else ""
    head = f"{'backend':<{width}}{'asked':<6}{'found':<7}{'ms':>8}{each}  {'L2 error':<10}verdict"
    lines = [f"    {head}"]
    for c in candidates:
        found, error = "-", "-"
        if c.proof is not None:
            found = c.proof.gate.precision_found["label"]
            errors = [v["relative_l2"] for v in c.proof.gate.outputs.values()]
            error = f"{max(errors):.2g}" if errors else "-"
        time = f"{c.ms:.{2 if c.ms >= 10 else 3}f}" if c.ms else "-"
        each = f"{c.per_item_ms:>9.3f}" if c.ms else f"{'-':>9}"
        shown = f"{time:>8}{each if several else ''}"
        lines.append(
            f"    {c.name:<{width}}{c.precision:<6}{found:<7}{shown}  {error:<10}{c.verdict}"
        )
    return "\n".join(lines)


def gate_table(gate: GateResult) -> str:
    """What differs, for a person."""
    lines = ["  the gate failed:"]
    for name, figures in gate.outputs.items():
        shown = ", ".join(f"{k} {v:g}" for k, v in figures.items())
        lines.append(f"    output {name}: {shown}")
    lines += [f"    {key}: {value}" for key, value in gate.task.items()]
    lines += [f"    differs: {failure}" for failure in gate.failures]
    return "\n".join(lines)


def _backend(trt: int | None, backend: str | None) -> str:
    if trt is None:
        return backend or "auto"
    if backend is not None:
        raise KitError(
            f"--trt {trt} and --backend {backend} both name what runs the model: give one"
        )
    if trt == 0:
        return "torchscript"
    if Path("/dev/nvidia0").exists():
        return "tensorrt"
    raise KitError("--trt 1 needs an NVIDIA GPU, and this machine has none: use --backend auto")


def _shapes(given: Sequence[str]) -> dict[str, tuple[int | str, ...]]:
    shapes: dict[str, tuple[int | str, ...]] = {}
    for i, text in enumerate(given):
        name, _, axes = text.rpartition("=")
        parts = axes.split("x")
        if not all(re.fullmatch(r"[1-9]\d*|[A-Za-z_]+", part) for part in parts):
            raise KitError(
                f"--input-shape {text!r}: expected [NAME=]1x3x224x224, or words for free axes"
            )
        shapes[name or f"input_{i}"] = tuple(int(p) if p.isdigit() else p for p in parts)
    return shapes
