"""From whatever a checkpoint holds to named tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from repack.sources.errors import UnsupportedLayout, printable
from repack.sources.pickle_names import Inert

HOLDERS = ("ema", "model", "state_dict", "model_state_dict", "network_weights", "net", "weights")
"""Keys under which training scripts keep the network, the preferred ones first."""

MAX_DEPTH = 64
"""Levels of modules inside modules."""

MAX_MODULES = 100_000
"""Modules of a network, one that is used twice counted twice."""


@dataclass(frozen=True)
class Weights:
    """The network found in a checkpoint.

    Attributes:
        tensors: by state-dict name, as stored (fp16 stays fp16).
        root: the pickled whole module, where there was one.
        around: the dict that held it, for class names and the like.
    """

    tensors: dict[str, Tensor]
    root: Inert | None = None
    around: Mapping[str, Any] = field(default_factory=dict)


def find_weights(path: Path, checkpoint: object) -> Weights:
    """The network of ``checkpoint``, ``ema`` before ``model``.

    Raises:
        UnsupportedLayout: there is none; the message names what there is.
    """
    if isinstance(checkpoint, Inert):
        return Weights(_of_module(path, checkpoint), checkpoint)
    if not isinstance(checkpoint, dict):
        raise UnsupportedLayout(
            path, f"holds a {type(checkpoint).__name__}, expected a network or its state dict"
        )
    around = {key: value for key, value in checkpoint.items() if isinstance(key, str)}
    for key in HOLDERS:
        held = around.get(key)
        if isinstance(held, Inert) and "_modules" in held.state:
            return Weights(_of_module(path, held), held, around)
        if isinstance(held, dict) and _is_state_dict(held):
            return Weights(_checked(path, held), None, around)
    if _is_state_dict(checkpoint):
        return Weights(_checked(path, checkpoint), None, {})
    keys = printable(", ".join(repr(key) for key in list(checkpoint)[:6]), 120) or "no keys"
    raise UnsupportedLayout(
        path,
        f"a dict with {keys}; expected tensors, or a network or state dict under one of "
        f"{', '.join(HOLDERS)}",
    )


def _is_state_dict(held: dict[Any, Any]) -> bool:
    tensors = sum(isinstance(value, Tensor) for value in held.values())
    return tensors > 0 and all(isinstance(key, str) for key in held)


def _checked(path: Path, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that really hold as many elements as their shape says."""
    result = {}
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            continue  # version numbers and extra state beside the tensors
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UnsupportedLayout(
                path,
                f"tensor {printable(name, 80)!r} claims shape {list(value.shape)} over "
                f"{value.untyped_storage().nbytes()} bytes",
            )
        result[name] = value
    return result


def _of_module(path: Path, root: Inert) -> dict[str, Tensor]:
    found = {
        f"{prefix}{name}": tensor
        for prefix, module in modules_of(path, root)
        for name, tensor in _own_tensors(module)
    }
    return _checked(path, found)


def _own_tensors(module: Inert) -> Iterator[tuple[str, Tensor]]:
    skipped = module.state.get("_non_persistent_buffers_set")
    skipped = skipped if isinstance(skipped, set) else set()
    for group in ("_parameters", "_buffers"):
        held = module.state.get(group)
        for name, tensor in held.items() if isinstance(held, dict) else ():
            if isinstance(name, str) and isinstance(tensor, Tensor) and name not in skipped:
                yield name, tensor


def modules_of(path: Path, root: Inert) -> Iterator[tuple[str, Inert]]:
    """The modules of a pickled network with their prefixes ("model.0.conv."), depth first.

    Raises:
        UnsupportedLayout: modules nested too deeply (or into themselves), or too many.
    """
    waiting: list[tuple[str, Inert]] = [("", root)]
    count = 0
    while waiting:
        prefix, module = waiting.pop()
        count += 1
        if prefix.count(".") > MAX_DEPTH:
            raise UnsupportedLayout(path, f"modules nested more than {MAX_DEPTH} levels deep")
        if count > MAX_MODULES:
            raise UnsupportedLayout(path, f"more than {MAX_MODULES} modules")
        yield prefix, module
        held = module.state.get("_modules")
        children = [
            (f"{prefix}{name}.", child)
            for name, child in (held.items() if isinstance(held, dict) else ())
            if isinstance(name, str) and isinstance(child, Inert)
        ]
        waiting.extend(reversed(children))
