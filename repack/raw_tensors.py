"""A model of whatever a source holds: raw tensors in, raw tensors out.

Tasks that know more start from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from handlers.errors import KitError
from handlers.passport import TensorSpec
from handlers.runtimes.torchscript import flatten
from repack import inputs, lookups
from repack.element_types import NAMES
from repack.inputs import ANY
from repack.model import Arrays, Model
from repack.onnx import original as original_of
from repack.options import Shapes, Values
from repack.patience import answering
from repack.sources.source import Source


def tensors(
    source: Source,
    shapes: Shapes,
    types: Mapping[str, str] | None = None,
    values: Mapping[str, Values] | None = None,
) -> Model:
    """Any model: raw tensors in, raw tensors out.

    Args:
        shapes: shape per input name, as given by the user; TorchScript files and state dicts do not
            carry theirs. A word instead of a number is an axis of any length.
        types: NumPy's name of an input's element type, likewise; that of the weights if left out.
        values: what inputs may hold, likewise.

    Raises:
        KitError: shapes are missing, the model does not run on them, or its weights are not finite.
    """
    found = (
        _of_onnx(source, shapes, types or {}, values or {})
        if source.module is None
        else _of_module(source, shapes, types or {}, values or {})
    )
    return replace(found, notes=(*source.told.unread.values(), *found.notes))


def _of_module(
    source: Source, shapes: Shapes, types: Mapping[str, str], values: Mapping[str, Values]
) -> Model:
    module, told = cast(nn.Module, source.module).eval(), source.told
    notes: tuple[str, ...] = ()
    if not shapes and told.sides:
        shapes = {"images": (told.batch or "batch", told.channels, *told.sides)}
        notes = (f"the input is {inputs.shown(shapes)}, as the file says",)
    if not shapes:
        raise KitError(
            f"{source.path}: {source.called} does not carry its input's shape: "
            "add --input-shape 1x3x224x224 (or batchx3x224x224)"
        )
    weights = dict([*module.named_parameters(), *module.named_buffers()])
    floats = ((n, w.detach()) for n, w in weights.items() if w.is_floating_point())
    # NumPy has no bfloat16.
    _refuse_odd(source.path, ((n, (w if w.itemsize > 2 else w.float()).numpy()) for n, w in floats))
    kinds = {w.dtype for w in weights.values() if w.is_floating_point()}
    usual = _name(next(iter(kinds))) if len(kinds) == 1 else "float32"
    specs = tuple(TensorSpec(n, types.get(n, usual), shape) for n, shape in shapes.items())
    specs = inputs.limited(specs, {}, values)
    made = inputs.made_up(specs, np.random.default_rng(0), 2)
    try:
        with torch.inference_mode(), answering(source.path):
            given = {name: torch.from_numpy(value) for name, value in made.items()}
            result, limits = lookups.watched(module, given)
    except Exception as e:
        reason = str(e).strip().splitlines()[-1] if str(e).strip() else type(e).__name__
        shown = ", ".join(f"{s.name}={s.dtype}:{'x'.join(map(str, s.shape))}" for s in specs)
        raise KitError(
            f"{source.path}: the model does not run on {shown} ({reason}): give each input as "
            "--input-shape [NAME=][TYPE:]SHAPE, in the order of its arguments"
        ) from None
    try:
        answered = flatten(result)
    except TypeError as e:
        raise KitError(f"{source.path}: of what the model answers, {e}; expected tensors") from None
    outputs = tuple(TensorSpec(n, _name(v.dtype), (ANY,) * v.dim()) for n, v in answered.items())
    specs = inputs.limited(specs, limits, values)
    own = frozenset(NAMES.get(_name(k), _name(k)) for k in kinds)
    original = of_module(module, specs, outputs)
    graph = getattr(module, "inlined_graph", None)
    sorts = graph is not None and any(n.kind() in SORTING for n in graph.nodes())
    return Model(source, specs, outputs, module, original, own_types=own, sorts=sorts, notes=notes)


SORTING = {"aten::topk", "aten::sort", "aten::argsort", "torchvision::nms"}
SORTING |= {"TopK", "NonMaxSuppression"}
"""Operators that put rows in order, TorchScript's and ONNX's."""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _refuse_odd(path: Path, weights: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Refuses weights that are no numbers; infinities among zeros alone are a mask.

    Raises:
        KitError: by the first one's name.
    """
    odd = [name for name, value in weights if _odd(value)]
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise KitError(f"{path}: weights {odd[0]!r}{more} hold NaN or infinity: train it again")


def _odd(value: NDArray[Any]) -> bool:
    numbers = value.astype(np.float32) if value.dtype.itemsize < 4 else value
    finite = np.isfinite(numbers)
    return bool(np.isnan(numbers).any() or (not finite.all() and numbers[finite].any()))


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


def _of_onnx(
    source: Source, shapes: Shapes, types: Mapping[str, str], values: Mapping[str, Values]
) -> Model:
    session = original_of.session(str(source.graph), source)
    told = session.get_inputs()
    names = [i.name for i in told]
    shapes = inputs.by_name(shapes, names, "--input-shape")
    types = inputs.by_name(types, names, "--input-shape")
    file = onnx.load(source.graph)
    specs = tuple(_onnx_spec(i, shapes.get(i.name), source.path) for i in told)
    for spec in specs:
        if types.get(spec.name, spec.dtype) != spec.dtype:
            raise KitError(
                f"--input-shape {spec.name}={types[spec.name]}:...: the file's own is {spec.dtype}"
            )
    whole = tuple(inputs.sized(s, source.told.sides) if s.name not in shapes else s for s in specs)
    filled = {s.name: s.shape for s, before in zip(whole, specs, strict=True) if s != before}
    specs = inputs.limited(whole, lookups.of_graph(file.graph), values)
    outputs = tuple(_onnx_spec(o, None, source.path) for o in session.get_outputs())

    def original(given: Arrays) -> Arrays:
        found = session.run(None, given)
        return dict(zip((o.name for o in outputs), found, strict=True))

    _refuse_odd(source.path, ((n, v) for n, v in _constants(file) if v.dtype.kind in "fV"))
    return Model(
        source,
        specs,
        outputs,
        None,
        original,
        own_types=_own_types(file.graph),
        sorts=any(node.op_type in SORTING for node in file.graph.node),
        notes=(f"the input is {inputs.shown(filled)}, as the file says",) if filled else (),
    )


def _constants(file: onnx.ModelProto) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every constant, by its own name or that of the node's output that holds it."""
    for tensor in file.graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    for node in file.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and node.op_type == "Constant":
                yield node.output[0], numpy_helper.to_array(attribute.t)


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
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


HINTS = {
    "map(": ": convert it with options={'zipmap': False}, as skl2onnx has it",
    "string": ": number its classes, and give their names by --labels or to your clients",
}
"""What helps with outputs that are no numbers, by a part of their type."""


def _word(axis: Any) -> str:
    """The name of a free axis; some exporters write "?" or -1 where they know none."""
    return axis if isinstance(axis, str) and axis not in ("", "?") else ANY


def _onnx_spec(node: Any, shape: tuple[int | str, ...] | None, path: Path) -> TensorSpec:
    if node.type not in ONNX_TYPES:
        hint = next((h for kind, h in HINTS.items() if kind in node.type), "")
        raise KitError(f"{path}: {node.name} is {node.type}; expected a tensor of numbers{hint}")
    own = tuple(n if isinstance(n, int) and n > 0 else _word(n) for n in node.shape)
    if shape is not None and len(shape) != len(own):
        raise KitError(f"--input-shape {node.name}={shape}: the model's own shape is {own}")
    return TensorSpec(node.name, ONNX_TYPES[node.type], shape or own)
