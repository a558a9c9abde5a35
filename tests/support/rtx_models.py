"""Networks to build engines of, the types in an engine of TensorRT for RTX, and how long it takes.

python -m tests.support.rtx_models      # prints the table of benchmarks/results/rtx_builds.md
"""

from __future__ import annotations

import lzma
import math
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from benchmarks import grown
from examples.resnet50 import make as resnet_file
from examples.resnet50.network import resnet
from examples.shapes import evaluate
from handlers.engines.build import Job, Profiles, build
from repack import pipeline, sources
from repack.backends.conversion import Conversion
from repack.backends.tensorrt import onnx_file
from repack.backends.tensorrt.request import EngineRequest
from repack.model import Model
from repack.onnx import float_layers
from repack.options import DetectorOptions, GpuOptions, Options, SourceOptions
from repack.tasks.segmentation import model as segmentation
from tests.support import exported_detectors, nnunet

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).parent / "rtx"
"""Folder with the ``tensorrt`` that is TensorRT for RTX."""

SIDE, CLASSIFIED, WINDOW = 320, 96, (32, 64, 64)
"""Of the detectors' pictures, of the classifier's, and of the vessels net's windows: smaller than
what they were made for, because an engine takes as long to build for any size."""
PRECISIONS = ("f32", "f16", "int8")
SHAPES = ("fixed", "dynamic")


def detector(weights: Path) -> Model:
    """A checkpoint on pictures of ``SIDE``."""
    return pipeline.load(Options(SourceOptions(weights), detector=DetectorOptions(imgsz=SIDE)))


def yolov5n(folder: Path) -> Model:
    """The shipped detector."""
    return detector(evaluate.WEIGHTS)


def yolov5s(folder: Path) -> Model:
    """The detector that was grown from it."""
    return detector(grown.yolov5s(folder / "s.pt"))


def yolov8n(folder: Path) -> Model:
    """A YOLOv8 of few channels, as the real package saved it."""
    file = folder / "yolov8n.pt"
    packed = Path(__file__).parents[1] / "data" / "yolov8n_tiny.pt.xz"
    file.write_bytes(lzma.decompress(packed.read_bytes()))
    return detector(file)


TASKS = {
    "points": "pose",
    "masks": "instances",
    "anchored-masks": "instances",
    "angle": "oriented",
}


def exported(layout: str, folder: Path) -> Model:
    """A small detector's ONNX file, with one project's layout of outputs."""
    task = TASKS.get(layout, "detection")
    told = {"names": ["a", "b", "c"], "kpt_shape": [exported_detectors.POINTS, 3]}
    file = exported_detectors.onnx_file(folder, layout, told=told)
    return pipeline.load(Options(SourceOptions(file), task=task))


def resnet50(folder: Path) -> Model:
    """An ONNX file, which takes pixels once the classifier's nodes are added."""
    file = folder / "resnet50.onnx"
    resnet_file.write(resnet(50, 1000, 64, CLASSIFIED, 0), file, CLASSIFIED)
    return pipeline.load(Options(SourceOptions(file), task="classification"))


def vessels(folder: Path) -> Model:
    """The shipped 3-D U-Net."""
    example = ROOT / "examples" / "vessels"
    source = sources.load(
        SourceOptions(
            example / "unet_vessels.pt",
            network="examples.vessels.network:Net",
            volumes=example / "volumes.yaml",
        )
    )
    smaller = {**source.settings, "patch": list(WINDOW)}
    return segmentation.make(replace(source, settings=smaller), Options())


def nnunet_plan(folder: Path) -> Model:
    """One fold of a results folder that nnU-Net itself wrote."""
    return pipeline.load(Options(SourceOptions(nnunet.unpacked(folder / "results"), folds=("0",))))


MODELS: dict[str, Callable[[Path], Model]] = {
    "YOLOv5n": yolov5n,
    "YOLOv5s": yolov5s,
    "YOLOv8n": yolov8n,
    "ResNet-50": resnet50,
    "vessels": vessels,
    "nnU-Net": nnunet_plan,
}


@dataclass(frozen=True)
class Network:
    """A model on its way to engines.

    Attributes:
        request: for f32; it has inputs to calibrate on.
        work: holds the ONNX file, and gets those of other precisions.
    """

    request: EngineRequest
    work: Path

    @classmethod
    def make(cls, name: str, work: Path) -> Network:
        """One of ``MODELS``, as ``model_repack.py`` makes its ONNX file."""
        return cls.of(MODELS[name](work), work)

    @classmethod
    def of(cls, model: Model, work: Path) -> Network:
        """Any model, likewise."""
        gpu_model = Conversion(model, work).gpu_model
        onnx_file.convert(gpu_model, work / onnx_file.SOURCE)
        inputs = [model.random_inputs(1)]
        request = EngineRequest(gpu_model, "onnx", "f32", (1,), {}, GpuOptions(), inputs)
        return cls(request, work)

    def source(self, precision: str) -> Path:
        """The ONNX file for strongly typed networks."""
        return onnx_file.in_types(replace(self.request, precision=precision), self.work)

    def job(self, precision: str, shapes: str) -> Job:
        """What is built: with the ONNX file for strongly typed networks."""
        return Job(str(self.source(precision)), "", precision, self.profile(shapes))

    def profile(self, shapes: str) -> Profiles:
        """A batch of 1, or 1 to 4 by one engine."""
        (fixed,) = self.request.profiles()
        if shapes == "fixed":
            return fixed
        free = {k: [(n, *shape[1:]) for n in (1, 2, 4)] for k, (shape, *_) in fixed.items()}
        return {k: (low, usual, high) for k, (low, usual, high) in free.items()}

    def weights(self, precision: str) -> Counter[str]:
        """How many weights of convolutions and products an engine must hold in each type."""
        graph = onnx.load(self.work / onnx_file.SOURCE).graph
        sizes = {t.name: math.prod(t.dims) for t in graph.initializer}
        floats = float_layers.ends(graph)
        found: Counter[str] = Counter()
        for node in graph.node:
            if node.op_type in float_layers.QUANTISED:
                low = precision == "f16" or node.name in floats
                kind = "float" if precision == "f32" else "half" if low else "int8"
                found[kind] += sizes[node.input[1]]
        return found


CONSTANT = re.compile(
    rb'tensor=\{ [^}]*?const_payload_size=\d+ dims=\{ ([\d ]+)\}[^}]*? name="([^"]+)"'
    rb"[^\n]*? type=(\w+) \}"
)
"""A constant in the text of the program that TensorRT for RTX 1.7 writes into an engine."""


def weights(engine: bytes) -> Counter[str]:
    """How many weights of convolutions and products an engine holds in each type.

    Read from the compiled program's text: constants of two axes and more. Some have a few channels
    of zeros more than the network's; planes of zeros that inputs are filled up with are left out.
    """
    found = {}
    for match in CONSTANT.finditer(engine):
        axes = [int(n) for n in match[1].split()]
        filling = len(axes) > 3 and axes[0] == 1
        if sum(n > 1 for n in axes) > 1 and not filling:
            found[match[2]] = match[3].decode(), math.prod(axes)
    total: Counter[str] = Counter()
    for kind, count in found.values():
        total[kind] += count
    return total


def axes(engine: bytes, name: str) -> list[int | None]:
    """An input's shape in an engine's program; None where the program takes any length."""
    line = re.search(
        rb'tensor=\{ [^}]*?dims=\{ ([^}]*)\}[^}]*? name="%s.1"' % name.encode(), engine
    )
    assert line is not None
    return [int(n) if n.isdigit() else None for n in line[1].decode().split()]


def main() -> None:
    """Prints seconds for each ONNX file and each engine: by the clock, and of processor time."""
    sys.path.insert(0, str(STAND_IN))
    print("| model | precision | ONNX file | engine, fixed | engine, dynamic | MB |")
    print("|---|---|---|---|---|---|")
    for name in MODELS:
        with tempfile.TemporaryDirectory() as tmp:
            network, loaded = timed(Network.make, name, Path(tmp))
            print(f"| {name} | read and exported | {loaded} | | | |", flush=True)
            for precision in PRECISIONS:
                _, written = timed(network.source, precision)
                jobs = [network.job(precision, shapes) for shapes in SHAPES]
                engines = [timed(build, job) for job in jobs]
                size = f"{len(engines[0][0].engine) / 1e6:.1f}"
                cells = name, precision, written, *(taken for _, taken in engines), size
                print("|", " | ".join(cells), "|", flush=True)


def timed(what: Callable[..., Any], *given: Any) -> tuple[Any, str]:
    """What it gives; "seconds (processor seconds)"."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = what(*given)
    return found, f"{time.perf_counter() - wall:.1f} ({time.process_time() - cpu:.1f})"


if __name__ == "__main__":
    main()
