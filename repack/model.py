"""What is converted: a model with named inputs and outputs, and the original's own answers.

``tensors`` makes one of whatever a source holds; tasks that know more start from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from handlers.artefact import Artefact
from handlers.errors import KitError
from handlers.passport import TensorSpec
from handlers.runtimes.torchscript import flatten
from repack.element_types import NAMES
from repack.onnx import nodes
from repack.options import Profiles, Shapes
from repack.patience import answering
from repack.sources.source import Source

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Export:
    """What is exported to ONNX where that is not ``Model.module`` itself.

    Attributes:
        module: takes the model's inputs.
        outputs: the names of what it gives; the original answers them too.
        finish: writes the exported file anew with the graph's end: ``finish(exported, finished)``.
        output: what the finished graph ends in, as ``handlers.artefact.Artefact.output``.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    finish: Callable[[Path, Path], None]
    output: str


@dataclass(frozen=True)
class GpuModel:
    """A model as the runtimes on a GPU take it.

    Attributes:
        module: float32, on the CPU; None where the source is an ONNX file.
        shapes: per input its shape as the module takes it; a word is an axis of any length.
        dtypes: per input NumPy's name of its element type.
        outputs: their names.
        pixels: inputs taken as ``[N, 3, H, W]`` in 0..1 in place of uint8 ``[N, H, W, 3]``.
        channels_last: pictures and volumes lie as cuDNN reads them fastest.
        output: what it ends in, as ``handlers.artefact.Artefact.output``.
        onnx: the source's ONNX file where there is no module.
        symbolic: as ``Model.symbolic``.
    """

    module: nn.Module | None
    shapes: Shapes
    dtypes: Mapping[str, str]
    outputs: tuple[str, ...]
    pixels: tuple[str, ...] = ()
    channels_last: bool = False
    output: str = "tensors"
    onnx: Path | None = None
    symbolic: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def feed(self, given: Arrays) -> Arrays:
        """Inputs as the passport has them -> as the module takes them."""
        return {
            name: np.ascontiguousarray(value.transpose(0, 3, 1, 2)).astype(np.float32) / 255
            if name in self.pixels
            else value
            for name, value in given.items()
        }

    def sized(self, batch: int) -> dict[str, tuple[int, ...]]:
        """The shapes with the batch axis set.

        Raises:
            ValueError: another axis is of any length; its message is the input's name.
        """
        found = {}
        for name, shape in self.shapes.items():
            if any(isinstance(n, str) for n in shape[1:]):
                raise ValueError(name)
            first = batch if isinstance(shape[0], str) else shape[0]
            found[name] = (first, *(int(n) for n in shape[1:]))
        return found


@dataclass(frozen=True)
class Built:
    """An artefact that the user built: packed as it is.

    Attributes:
        file: where it lies; ``artefact.files`` holds its name alone.
        profile: the shapes that it takes.
    """

    file: Path
    artefact: Artefact
    profile: Profiles


@dataclass(frozen=True)
class Model:
    """One model on its way into an archive; its task makes it (``repack.tasks``).

    Attributes:
        source: where it came from.
        inputs: what the converted model takes.
        outputs: what it gives.
        module: what is traced; None where the source is an ONNX file.
        original: the unconverted model's answer to inputs as in ``inputs``; the gate's reference.
            It may give more than ``outputs``: whatever an artefact may be compared in. None where
            there is no original to ask.
        settings: what the handler needs to know, as written into the passport.
        output: what ``module`` ends in, as ``handlers.artefact.Artefact.output``.
        symbolic: the user's ONNX operators, as ``repack.onnx.symbolic.load`` gives them.
        write_onnx: for an ONNX source whose graph is changed first: writes the graph that takes
            ``inputs``; None where it is converted as it is.
        export: what is exported to ONNX; None for ``module`` itself.
        on_gpu: the same model for a GPU; None for ``module`` or the ONNX file as they are.
        draw: made-up inputs ``(random numbers, batch) -> arrays``; None for values spread over
            each input's range.
        built: the user's own artefact, where nothing is to be built.
        own_types: element types beside "f32" that the file's own layers are in, such as "int8" of a
            quantised one: they are no loss of precision.
        sorts: chooses the best of a list inside, so that rows of equal rank come in any order.
    """

    source: Source
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    module: nn.Module | None
    original: Callable[[Arrays], Arrays] | None
    settings: dict[str, Any] = field(default_factory=dict)
    output: str = "tensors"
    symbolic: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    write_onnx: Callable[[Path], None] | None = None
    export: Export | None = None
    on_gpu: GpuModel | None = None
    draw: Callable[[np.random.Generator, int], Arrays] | None = None
    built: Built | None = None
    own_types: frozenset[str] = frozenset()
    sorts: bool = False

    @property
    def task(self) -> str:
        return self.source.task

    def random_inputs(self, seed: int, batch: int = 1) -> Arrays:
        """Made-up inputs, the same for one seed."""
        rng = np.random.default_rng(seed)
        if self.draw is not None:
            return self.draw(rng, batch)
        return {spec.name: random_array(spec, rng, batch) for spec in self.inputs}

    def ask(self, given: Arrays) -> Arrays:
        """The original's answer.

        Raises:
            KitError: there is no original.
        """
        if self.original is None:
            raise KitError(f"{self.source.path}: holds no original to compare with")
        try:
            with answering(self.source.path):
                return self.original(given)
        except KitError:
            raise
        except Exception as e:  # runtimes raise many types for inputs that a model does not take
            raise KitError(self._refusal(e, given)) from None

    def _refusal(self, error: Exception, given: Arrays) -> str:
        """Why the original does not run on inputs that its shapes allow."""
        shown = ", ".join(f"{k}={'x'.join(map(str, v.shape))}" for k, v in given.items())
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        if self.module is None:
            reason = nodes.reason(self.source.graph, error)
        free = [s for s in self.inputs if any(isinstance(n, str) for n in s.shape)]
        told = "; ".join(f"{s.name} is {'x'.join(map(str, s.shape))}" for s in free)
        hint = f" ({told}): give sizes that it takes by --input-shape" if free else ""
        return f"{self.source.path}: the model does not run on {shown}: {reason}{hint}"

    @property
    def float64(self) -> bool:
        """Whether it computes in 64-bit floats."""
        kinds = {spec.dtype for spec in (*self.inputs, *self.outputs)}
        return "float64" in kinds or "f64" in self.own_types

    def for_gpu(self) -> GpuModel:
        """The model as the runtimes on a GPU take it."""
        return self.on_gpu or GpuModel(
            self.module,
            {s.name: s.shape for s in self.inputs},
            {s.name: s.dtype for s in self.inputs},
            tuple(s.name for s in self.outputs),
        )


def within(model: Model, profile: Profiles) -> Model:
    """The model whose made-up inputs fit an optimization profile; for drawing inputs only.

    Args:
        profile: by input name, or by "" where there is one input; empty leaves the model as it is.
    """
    inputs = []
    for spec in model.inputs:
        if not profile:
            return model
        limits = profile.get(spec.name) or profile.get("")
        if limits is None or len(limits[1]) != len(spec.shape):
            return model  # refused, with its name, where the engine is built
        low, usual, high = limits
        axes = [n if isinstance(n, int) else usual[i] for i, n in enumerate(spec.shape)]
        if isinstance(spec.shape[0], str) and low[0] == 1 and high[0] > 1:
            inputs.append(replace(spec, shape=(spec.shape[0], *axes[1:])))
        else:
            inputs.append(replace(spec, shape=tuple(axes)))
    return replace(model, inputs=tuple(inputs))


def tensors(source: Source, shapes: Shapes, types: Mapping[str, str] | None = None) -> Model:
    """Any model: raw tensors in, raw tensors out.

    Args:
        shapes: shape per input name, as given by the user; TorchScript files and state dicts do not
            carry theirs. A word instead of a number is an axis of any length.
        types: NumPy's name of an input's element type, likewise; that of the weights if left out.

    Raises:
        KitError: shapes are missing, the model does not run on them, or its weights are not finite.
    """
    if source.module is None:
        return _of_onnx(source, shapes)
    if not shapes:
        raise KitError(
            f"{source.path}: {source.called} does not carry its input's shape: "
            "add --input-shape 1x3x224x224 (or batchx3x224x224)"
        )
    module = source.module.eval()
    weights = dict([*module.named_parameters(), *module.named_buffers()])
    odd = [n for n, w in weights.items() if w.is_floating_point() and not w.isfinite().all()]
    _refuse_odd(source.path, odd)
    kinds = {w.dtype for w in weights.values() if w.is_floating_point()}
    usual = _name(next(iter(kinds))) if len(kinds) == 1 else "float32"
    specs = tuple(TensorSpec(n, (types or {}).get(n, usual), shape) for n, shape in shapes.items())
    example = {s.name: random_array(s, np.random.default_rng(0), 2) for s in specs}
    given = ", ".join(f"{s.name}={s.dtype}:{'x'.join(map(str, s.shape))}" for s in specs)
    try:
        with torch.inference_mode(), answering(source.path):
            result = module(*(torch.from_numpy(example[s.name]) for s in specs))
    except Exception as e:
        reason = str(e).strip().splitlines()[-1] if str(e).strip() else type(e).__name__
        raise KitError(
            f"{source.path}: the model does not run on {given} ({reason}): give each input as "
            "--input-shape [NAME=][TYPE:]SHAPE, in the order of its arguments"
        ) from None
    try:
        values = flatten(result)
    except TypeError as e:
        raise KitError(f"{source.path}: of what the model answers, {e}; expected tensors") from None
    outputs = tuple(TensorSpec(n, _name(v.dtype), ("any",) * v.dim()) for n, v in values.items())
    own = frozenset(NAMES.get(_name(k), _name(k)) for k in kinds)
    original = of_module(module, specs, outputs)
    graph = getattr(module, "inlined_graph", None)
    sorts = graph is not None and any(n.kind() in SORTING for n in graph.nodes())
    return Model(source, specs, outputs, module, original, own_types=own, sorts=sorts)


SORTING = {"aten::topk", "aten::sort", "aten::argsort", "torchvision::nms"}
SORTING |= {"TopK", "NonMaxSuppression"}
"""Operators that put rows in order, TorchScript's and ONNX's."""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _refuse_odd(path: Path, weights: Sequence[str]) -> None:
    if weights:
        more = f" and {len(weights) - 1} more" if len(weights) > 1 else ""
        raise KitError(f"{path}: weights {weights[0]!r}{more} hold NaN or infinity: train it again")


def of_module(
    module: Callable[..., Any], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Callable[[Arrays], Arrays]:
    """A module as ``Model.original``."""

    def run(given: Arrays) -> Arrays:
        with torch.inference_mode():
            result = module(*(torch.from_numpy(given[s.name]) for s in inputs))
        values = flatten(result).values()
        return {s.name: v.numpy() for s, v in zip(outputs, values, strict=True)}

    return run


def _of_onnx(source: Source, shapes: Shapes) -> Model:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(source.graph), options, ["CPUExecutionProvider"])
    except Exception as e:
        reason = nodes.reason(source.graph, e)
        raise KitError(
            f"{source.path}: ONNX Runtime, whose answers the gate compares with, does not load it "
            f"({reason})"
        ) from None
    inputs = tuple(_onnx_spec(i, shapes.get(i.name), source.path) for i in session.get_inputs())
    unknown = set(shapes) - {s.name for s in inputs}
    if unknown:
        names = ", ".join(s.name for s in inputs)
        raise KitError(f"--input-shape names {', '.join(sorted(unknown))}; the model has {names}")
    outputs = tuple(_onnx_spec(o, None, source.path) for o in session.get_outputs())

    def original(given: Arrays) -> Arrays:
        values = session.run(None, given)
        return dict(zip((o.name for o in outputs), values, strict=True))

    graph = onnx.load(source.graph).graph
    _refuse_odd(source.path, [t.name for t in graph.initializer if not _finite(t)])
    return Model(
        source,
        inputs,
        outputs,
        None,
        original,
        own_types=_own_types(graph),
        sorts=any(node.op_type in SORTING for node in graph.node),
    )


def _finite(tensor: onnx.TensorProto) -> bool:
    value = numpy_helper.to_array(tensor)
    return value.dtype.kind != "f" or bool(np.isfinite(value).all())


def _own_types(graph: onnx.GraphProto) -> frozenset[str]:
    """Types of the weights of two axes and more, and of the integer operators that read them."""
    kinds = {str(numpy_helper.to_array(t).dtype) for t in graph.initializer if len(t.dims) > 1}
    found = {NAMES.get(kind, kind) for kind in kinds if kind.startswith("float")}
    if any(node.op_type in INTEGER for node in graph.node):
        found.add("int8")
    return frozenset(found)


INTEGER = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv"}
INTEGER |= {"QLinearMatMul", "ConvInteger", "MatMulInteger"}
"""Operators of a file that is quantised already."""


ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def _onnx_spec(node: Any, shape: tuple[int | str, ...] | None, path: Path) -> TensorSpec:
    if node.type not in ONNX_TYPES:
        raise KitError(f"{path}: {node.name} is {node.type}; expected a tensor of numbers")
    own = tuple(n if isinstance(n, int) else str(n or "any") for n in node.shape)
    if shape is not None and len(shape) != len(own):
        raise KitError(f"--input-shape {node.name}={shape}: the model's own shape is {own}")
    return TensorSpec(node.name, ONNX_TYPES[node.type], shape or own)


def random_array(spec: TensorSpec, rng: np.random.Generator, batch: int) -> NDArray[Any]:
    """Values for one input: over its range, or standard normal; 8 for a free axis."""
    sizes = [
        n if isinstance(n, int) else (batch if i == 0 else 8) for i, n in enumerate(spec.shape)
    ]
    kind = np.dtype(spec.dtype).kind
    if spec.range and kind in "iu":
        return rng.integers(int(spec.range[0]), int(spec.range[1]) + 1, sizes).astype(spec.dtype)
    if kind in "iub":
        return rng.integers(0, 2, sizes).astype(spec.dtype)
    if spec.range:
        return rng.uniform(*spec.range, sizes).astype(spec.dtype)
    return rng.standard_normal(sizes).astype(spec.dtype)
