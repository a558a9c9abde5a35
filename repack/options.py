"""What is asked of a repack, as plain data: the command line fills it in, all others read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "examples" / "shapes" / "yolov5n_shapes.pt"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pictures, RGB, of values between 0 and 1: what nearly
every published classifier was trained with."""

BATCHES = (1, 4, 16)
"""Engines that a detector gets by default: a lone request, light load, and what nvJPEG decodes at
once (benchmarks/README.md)."""

MAX_SIDE = 4096
"""Largest side of a picture that a model takes, pixels: beyond it one takes gigabytes."""

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[int | str, ...]]
"""Per input its shape; a word in place of a number is an axis of any length."""


@dataclass(frozen=True)
class Values:
    """What an input may hold.

    Attributes:
        range: lowest and highest value; None for no limits.
        among: the only values; empty for all.
    """

    range: tuple[float, float] | None = None
    among: tuple[float, ...] = ()


Profiles = dict[str, tuple[Shape, Shape, Shape]]
"""Per input the min, opt and max shape of a TensorRT optimization profile."""

Three = tuple[float, float, float]


@dataclass(frozen=True)
class SourceOptions:
    """Where the model comes from, and how its file is read.

    Attributes:
        weights: checkpoint, ONNX file, TensorRT engine, or a folder.
        original: what an engine is compared with.
        network: "module:Class" of a plain state dict.
        folds: of an nnU-Net results folder; None takes all that are there.
        mirror: average over mirrored windows, as nnU-Net does by default.
        volumes: YAML file that says how a plain net of volumes was trained.
        tensorflow_python: the Python that has TensorFlow and tf2onnx, for SavedModels.
    """

    weights: Path = SHIPPED
    original: Path | None = None
    network: str | None = None
    folds: tuple[str, ...] | None = None
    mirror: bool = False
    volumes: Path | None = None
    tensorflow_python: Path | None = None


@dataclass(frozen=True)
class DetectorOptions:
    """What is asked of a detector.

    Attributes:
        imgsz: side of the square input, or height and width, pixels; None for what the file says.
        confidence: least confidence of an answered box, 0 to 1; None for the layout's.
        iou: overlap above which boxes of a class are merged, 0 to 1; None for what the family is
            usually served with.
        max_detections: most boxes per picture.
        layout: a key of ``repack.tasks.detection.layouts.LAYOUTS``, or "auto" to tell by the shapes
            of what the network answers.
        mode: how pictures are fitted in, one of ``handlers.images.MODES``; None for the layout's.
        labels, mean, std: as ``ClassifierOptions``; None for the file's, else the layout's.
    """

    imgsz: int | tuple[int, int] | None = None
    confidence: float | None = None
    iou: float | None = None
    max_detections: int = 300
    layout: str = "auto"
    mode: str | None = None
    labels: Path | None = None
    mean: Three | None = None
    std: Three | None = None

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of the input, where they were given."""
        return (self.imgsz, self.imgsz) if isinstance(self.imgsz, int) else self.imgsz

    @property
    def shown(self) -> str:
        """``--imgsz`` as it is typed."""
        return "x".join(str(side) for side in dict.fromkeys(self.sides or ()))


@dataclass(frozen=True)
class ClassifierOptions:
    """What is asked of a classifier.

    Attributes:
        labels: file with one class name a line; None for numbers.
        mean, std: of the training pictures, RGB, of values between 0 and 1; None for what the file
            says, else ImageNet's.
        resize, crop: pixels; None for what follows from the model's input.
        top_k: how many classes an answer holds.
        scores: what the model gives: "logits", "probabilities", or "auto" to look.
    """

    labels: Path | None = None
    mean: Three | None = None
    std: Three | None = None
    resize: int | None = None
    crop: int | None = None
    top_k: int = 5
    scores: str = "auto"


@dataclass(frozen=True)
class GpuOptions:
    """What is asked on a GPU.

    Attributes:
        via: how a TensorRT engine is made: "torch2trt", "onnx", or "auto" (torch2trt where it is
            installed and passes the gate, else ONNX).
        batches: sizes that are built; empty where a profile is given.
        min, opt, max: one engine with this optimization profile instead, a shape per input name
            ("" where the model has one input); None for fixed sizes.
        level: TensorRT's builder optimization level, 0 to 5.
        workspace_mb: device memory that one kernel may work in, MiB.
        engine_cache: folder of engines built before.
        rebuild: build again what the cache has.
        rebuild_on_load: pack the ONNX file too; a worker with another TensorRT or GPU builds once.
    """

    via: str = "auto"
    batches: tuple[int, ...] = BATCHES
    min: dict[str, Shape] | None = None
    opt: dict[str, Shape] | None = None
    max: dict[str, Shape] | None = None
    level: int = 3
    workspace_mb: int = 4096
    engine_cache: Path = ROOT / ".engines"
    rebuild: bool = False
    rebuild_on_load: bool = False

    @property
    def profile(self) -> Profiles:
        """Per input name the min, opt and max shape; empty for fixed sizes."""
        if not (self.min and self.opt and self.max):
            return {}
        return {name: (low, self.opt[name], self.max[name]) for name, low in self.min.items()}


@dataclass(frozen=True)
class Options:
    """All that one repack is asked for.

    Attributes:
        task: "auto" (what the source says) or a key of ``repack.tasks.TASKS``.
        backend: "auto" or a key of ``repack.backends.BACKENDS``.
        precision: "auto" or one that the backend offers.
        samples, calibration: folders of inputs for the gate and for int8.
        input_shapes: where the file does not carry them.
        input_types: NumPy's names of element types, likewise.
        input_values: what inputs may hold, where not every value means something.
        symbolic: the user's Python file of ONNX operators (``repack.onnx.symbolic``).
        command: as the user typed it, for the report.
    """

    source: SourceOptions = field(default_factory=SourceOptions)
    name: str = "fd1"
    version: str = "1.0"
    model_store: Path = ROOT / "model_store"
    task: str = "auto"
    backend: str = "auto"
    precision: str = "auto"
    samples: Path | None = None
    calibration: Path | None = None
    input_shapes: Shapes = field(default_factory=dict)
    input_types: Mapping[str, str] = field(default_factory=dict)
    input_values: Mapping[str, Values] = field(default_factory=dict)
    symbolic: Path | None = None
    detector: DetectorOptions = field(default_factory=DetectorOptions)
    classifier: ClassifierOptions = field(default_factory=ClassifierOptions)
    gpu: GpuOptions = field(default_factory=GpuOptions)
    command: str = ""
