"""What an archive holds of the model: one artefact for each runtime, with what that runtime needs.

The options of every runtime are written into the passport, and read from it, here alone.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, Union, get_args, get_origin, get_type_hints

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""An engine's optimization profile: per input its min, opt and max shape."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a runtime needs to load its files: nothing. A runtime that needs more extends it."""


@dataclass(frozen=True, kw_only=True)
class TorchScriptOptions(Options):
    """Names of what the module returns, in its order."""

    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeOptions(Options):
    """An ONNX file says all by itself."""


@dataclass(frozen=True, kw_only=True)
class OpenVinoOptions(Options):
    """The execution type to ask for: "f32" or "bf16"."""

    execution_type: str = "f32"


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """What every runtime on a GPU needs.

    Attributes:
        outputs: names of what the model gives, in its order.
        batches: the batch sizes that it was built for; empty for an engine with a profile.
        pixels: inputs that the model takes as ``[N, 3, H, W]`` in 0..1 instead of the passport's
            uint8 ``[N, H, W, 3]``.
        channels_last: inputs lie as cuDNN reads them fastest.
    """

    outputs: tuple[str, ...]
    batches: tuple[int, ...] = ()
    pixels: tuple[str, ...] = ()
    channels_last: bool = False


@dataclass(frozen=True, kw_only=True)
class TorchScriptCudaOptions(DeviceOptions):
    """A traced module needs no more than that."""


@dataclass(frozen=True, kw_only=True)
class AotInductorOptions(DeviceOptions):
    """A package for each of ``batches``.

    Attributes:
        built: "torch" and "compute_capability" that the packages are bound to.
        weights: per element type how many weights the program has, and their values in all.
    """

    built: Mapping[str, str]
    weights: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Rebuild:
    """What a worker builds engines from where the packed ones do not run.

    Attributes:
        weakly_typed, strongly_typed: ONNX file for TensorRT 8, and for 10 and later; None where
            there is none.
        ranges: name of the file of int8 ranges beside ``weakly_typed``; None where there is none.
        check: ``.npz`` file of an input ("in/NAME") and the original's answer ("out/NAME").
        relative_l2: most that the engine's answer may differ from that.
        level: the builder's optimization level, 0 to 5.
        workspace: bytes that the builder may work in.
    """

    weakly_typed: str | None
    strongly_typed: str | None
    ranges: str | None
    check: str
    relative_l2: float
    level: int
    workspace: int


@dataclass(frozen=True, kw_only=True)
class TensorRTOptions(DeviceOptions):
    """One engine for each of ``batches``, or one with a profile.

    Attributes:
        built: what ``handlers.engines.versions.machine`` said where the engines were built.
        engines: the profile of each engine.
        via: "onnx", "torch2trt", or "given" for an engine that the user built.
        plugins: TensorRT's plugins that the engines hold.
        float_layers: layers that int8 leaves in floats on purpose.
        relaxed: whether TensorRT built them in other types than it was asked for.
        rebuild: None where engines are not built again.
    """

    built: Mapping[str, str]
    engines: tuple[Profile, ...]
    via: str
    plugins: tuple[str, ...] = ()
    float_layers: tuple[str, ...] = ()
    relaxed: bool = False
    rebuild: Rebuild | None = None


OPTIONS: Mapping[str, type[Options]] = {
    "torchscript": TorchScriptOptions,
    "onnxruntime": OnnxRuntimeOptions,
    "openvino": OpenVinoOptions,
    "tensorrt": TensorRTOptions,
    "aotinductor": AotInductorOptions,
    "torchscript-cuda": TorchScriptCudaOptions,
}


@dataclass(frozen=True)
class Artefact:
    """The model, as one runtime loads it.

    Attributes:
        runtime: a key of ``handlers.runtimes.RUNTIMES``, or of the passport's ``runtimes``.
        files: paths inside the archive, the one to open first.
        precision_asked: "f32", "f16", "bf16", "int8" or "best".
        precision_found: what the runtime reported after loading it where it was made:
            ``{"label": "bf16", "layers": {"bf16": 0.9, ...}, "flops": {...}}``, shares of 1.
        output: what the graph ends in: "detections" (non-maximum suppression inside), "boxes"
            (decoded boxes) or "tensors".
        options: of the runtime's ``options_type``; a mapping as it stands in the passport, for a
            runtime that is not the kit's, until its class is known (``understood``).
    """

    runtime: str
    files: tuple[str, ...]
    precision_asked: str
    precision_found: dict[str, Any]
    output: str
    options: Any = field(default_factory=dict)


def understood(artefact: Artefact, kind: type[Options] | None = None) -> Artefact:
    """The artefact with its options in its runtime's own class.

    Args:
        kind: that class, of a runtime that is not the kit's.

    Raises:
        ValueError: a key is missing or unknown, or a value is of another type; by name.
    """
    kind = kind or OPTIONS.get(artefact.runtime)
    if kind is None or isinstance(artefact.options, Options):
        return artefact
    where = f"options of {artefact.runtime}"
    return replace(artefact, options=decoded(kind, artefact.options, where))


def decoded(kind: Any, value: Any, where: str) -> Any:
    """A value from JSON as the type that a dataclass's field has; tuples come as lists.

    Args:
        kind: a dataclass, ``str``, ``bool``, ``int``, ``float``, ``Any``, or a tuple, mapping or
            union of these.
        where: what the value is, for the error.

    Raises:
        ValueError: the value is of another type, or a dataclass's key is missing or unknown.
    """
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, Union):
        for one in args:
            with suppress(ValueError):
                return decoded(one, value, where)
    elif origin is tuple and isinstance(value, (list, tuple)):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(kinds) == len(value):
            return tuple(decoded(k, v, where) for k, v in zip(kinds, value, strict=True))
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        return {k: decoded(args[1], v, f"{where}: {k}") for k, v in value.items()}
    elif kind is float and type(value) is int:
        return float(value)
    elif kind is Any or type(value) is kind:
        return value
    raise ValueError(f"{where}: {value!r:.60}")


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: {type(value).__name__}")
    own, hints = fields(kind), get_type_hints(kind)
    needed = [f.name for f in own if f.default is f.default_factory is MISSING]
    wrong = [f"{n!r} is missing" for n in needed if n not in value]
    wrong += [f"{n!r} is not known" for n in sorted(set(value) - {f.name for f in own})]
    if wrong:
        raise ValueError(f"{where}: {', '.join(wrong)}")
    return kind(**{k: decoded(hints[k], v, f"{where}: {k}") for k, v in value.items()})
