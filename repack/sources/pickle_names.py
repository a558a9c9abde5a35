"""The names a checkpoint's pickle may mention, and what each of them becomes.

Nothing here is imported by name: a mentioned class turns into an ``InertClass``, which only
remembers its name, and the few functions that make tensors are this module's own.
"""

from __future__ import annotations

import math
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MAX_ELEMENTS = 2**40
"""No tensor of a checkpoint is larger; also keeps size products within 64 bits."""

MODEL_PACKAGES = ("models", "utils", "yolov5", "ultralytics", "torch.nn.modules")
"""Packages whose classes describe networks; everything in them is kept as inert data."""

INERT = frozenset(
    {
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
        "torch.Tensor",
        "torch._tensor.Tensor",
        "torch.device",
        "argparse.Namespace",
        "datetime.datetime",
        "datetime.date",
        "datetime.timedelta",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib.PurePosixPath",
        "pathlib.PureWindowsPath",
        "pathlib._local.Path",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.float64",
        "numpy.float32",
        "numpy.int64",
        "numpy.core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.slice",
        "collections.Counter",
        "collections.defaultdict",
        "collections.deque",
    }
)
"""Harmless names outside the model packages, exact; kept as inert data, too."""

_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.complex64, torch.complex128, torch.bool, torch.uint8, torch.int8, torch.int16),
    *(torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64),
)

_STORAGE_NAMES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}


MAX_NAME = 500
"""Letters of a name: each of a chain of them would be longer than the last."""


class Unsafe(Exception):
    """A call that is on the list, with arguments that it never has; its message says which."""


@dataclass(frozen=True, eq=False)
class InertClass:
    """A class or function that the pickle mentions and that is never looked up."""

    name: str

    @property
    def short(self) -> str:
        """The name without its package."""
        return self.name.rpartition(".")[2]


@dataclass(eq=False)
class Inert:
    """What an instance of an inert class would have held."""

    kind: InertClass
    args: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{self.kind.name}>"


@dataclass(frozen=True, eq=False)
class StorageType:
    """Which element type a storage has."""

    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Storage:
    """The elements of a storage, 1-D."""

    values: Tensor


@dataclass(frozen=True, eq=False)
class Builder:
    """One of the few calls that are carried out, by code of this module."""

    name: str
    build: Callable[..., object]


def _whole(numbers: object) -> tuple[int, ...]:
    if not isinstance(numbers, tuple) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("sizes and strides must be whole numbers of at least 0")
    return numbers


def rebuild_tensor(
    storage: object, offset: int, size: object, stride: object, *_: object
) -> Tensor:
    """A view of ``storage``, its bounds checked; allocates nothing."""
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    sizes, strides, (start,) = _whole(size), _whole(stride), _whole((offset,))
    if len(sizes) != len(strides):
        raise ValueError(f"{len(sizes)} sizes and {len(strides)} strides")
    if math.prod(max(n, 1) for n in sizes) > MAX_ELEMENTS or max(strides, default=0) > MAX_ELEMENTS:
        raise ValueError(f"a tensor of shape {sizes}")
    empty = 0 in sizes
    last = start + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    if (0 if empty else last + 1) > storage.values.numel() or start > storage.values.numel():
        raise ValueError(f"a tensor of shape {sizes} outside its storage")
    return storage.values.as_strided(sizes, strides, start)


def _rebuild_untyped(
    storage: object, offset: int, size: object, stride: object, *rest: object
) -> Tensor:
    """As ``rebuild_tensor``, the element type named in the call instead of by the storage."""
    dtype = rest[2] if len(rest) > 2 else None
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor without a storage or an element type")
    whole = storage.values.numel() // dtype.itemsize * dtype.itemsize
    return rebuild_tensor(Storage(storage.values[:whole].view(dtype)), offset, size, stride)


def _rebuild_parameter(data: object, *_: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError("a parameter without a tensor")
    return data


def _rebuild_from_type(builder: object, _kind: object, args: object, *_: object) -> Tensor:
    if not isinstance(builder, Builder) or builder.build not in _TENSOR_MAKERS:
        raise ValueError("a tensor from something that makes none")
    if not isinstance(args, tuple):
        raise ValueError("arguments that are no tuple")
    return builder.build(*args)


_TENSOR_MAKERS = (rebuild_tensor, _rebuild_untyped, _rebuild_parameter)


def _ordered(pairs: object = ()) -> OrderedDict[object, object]:
    if not isinstance(pairs, list | tuple):
        raise ValueError("an ordered dict of something that is no list")
    result: OrderedDict[object, object] = OrderedDict()
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError("an ordered dict of something that is no list of pairs")
        result[checked_key(pair[0])] = pair[1]
    return result


def _set(values: object = ()) -> set[object]:
    if not isinstance(values, list | tuple | set | frozenset):
        raise ValueError("a set of something that is no list")
    return {checked_key(v) for v in values}


def _size(values: object = ()) -> tuple[int, ...]:
    return _whole(tuple(values) if isinstance(values, list | tuple) else values)


def _method(owner: object, name: object) -> InertClass:
    """A mentioned class's function, by name: YOLOv5's segmentation heads hold one."""
    if not isinstance(owner, InertClass) or not isinstance(name, str) or not name.isidentifier():
        raise Unsafe("builtins.getattr for something that is no class of a network")
    if len(owner.name) + len(name) > MAX_NAME:
        raise Unsafe(f"builtins.getattr for a name of more than {MAX_NAME} letters")
    return InertClass(f"{owner.name}.{name}")


def checked_key(key: object) -> object:
    """``key``, where it can be hashed without walking a structure of the file's making, and where
    a file cannot choose many that hash alike: a dictionary of those takes hours to fill.

    Texts hash differently in every process. Numbers do not: those below ``sys.hash_info.modulus``
    are their own hash, and few floats share one; a tuple of numbers can be made to hash like any
    other, so only texts may be in one.
    """
    if isinstance(key, int) and abs(key) >= sys.hash_info.modulus:
        raise ValueError(f"a number of {key.bit_length()} bits as a key")
    if isinstance(key, tuple) and len(key) <= 64 and all(isinstance(k, str) for k in key):
        return key
    if isinstance(key, str | bytes | int | float | None | Inert | InertClass | torch.dtype):
        return key
    raise ValueError(f"a {type(key).__name__} as a key")


def _table() -> dict[str, object]:
    table: dict[str, object] = {
        "torch.storage.UntypedStorage": StorageType(torch.uint8),
        "torch.UntypedStorage": StorageType(torch.uint8),
    }
    for name, dtype in _STORAGE_NAMES.items():
        for package in ("torch", "torch.cuda", "torch.storage"):
            table[f"{package}.{name}Storage"] = StorageType(dtype)
    table |= {str(dtype): dtype for dtype in _DTYPES}
    builders: dict[str, Callable[..., object]] = {
        "torch._utils._rebuild_tensor": rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": rebuild_tensor,
        "torch._utils._rebuild_tensor_v3": _rebuild_untyped,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
        "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
        "torch.Size": _size,
        "collections.OrderedDict": _ordered,
        "builtins.set": _set,
        "builtins.frozenset": _set,
        "builtins.getattr": _method,
    }
    return table | {name: Builder(name, build) for name, build in builders.items()}


_TABLE = _table()


def modern(module: str, name: str) -> tuple[str, str]:
    """Where Python 3 looks for a name that a pickle of protocol 2 gives as in Python 2."""
    module, name = NAME_MAPPING.get((module, name), (module, name))
    return IMPORT_MAPPING.get(module, module), name


def resolve(module: str, name: str) -> object | None:
    """What ``module.name`` (``modern``) becomes, or None where it is not on the list.

    Dotted names (which a real unpickler would follow through attributes) are on no list.
    """
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        return None
    full = f"{module}.{name}"
    if full in _TABLE:
        return _TABLE[full]
    in_model = any(module == p or module.startswith(p + ".") for p in MODEL_PACKAGES)
    return InertClass(full) if in_model or full in INERT else None
