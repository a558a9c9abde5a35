"""A checkpoint's tensors and settings against those of the network that is to take them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from repack.networks.blocks import Bottleneck
from repack.sources.errors import UnsupportedLayout, printable
from repack.sources.pickle_names import Inert
from repack.sources.weights import Weights, modules_of


def check_tensors(
    path: Path, network: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> None:
    """Every name and every shape, before anything is copied.

    Raises:
        UnsupportedLayout: some are missing, left over or of another shape; the first are named.
    """
    missing = [name for name in expected if name not in found]
    extra = [f"{n} {list(t.shape)}" for n, t in found.items() if n not in expected]
    shapes = [
        f"{name} is {list(found[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    parts = [
        part
        for part in (
            _some(missing, "missing"),
            _some(shapes, "of another shape"),
            _some(extra, "unexpected"),
        )
        if part
    ]
    if parts:
        raise UnsupportedLayout(path, f"does not fit {network}: " + "; ".join(parts))


def _some(items: list[str], what: str) -> str:
    if not items:
        return ""
    first = ", ".join(printable(item, 100) for item in items[:2])
    return f"{len(items)} {what} ({first}{', ...' if len(items) > 2 else ''})"


def check_settings(path: Path, weights: Weights, module: nn.Module, read: str) -> None:
    """Compares what a state dict does not show (activation, strides, epsilon) with a whole module.

    Args:
        read: what the kit reads, for the message.

    Raises:
        UnsupportedLayout: the pickled network computes something else than ours would.
    """
    for name, ours, other in _both(path, weights, module):
        for what, expected, found in _differences(ours, other):
            raise UnsupportedLayout(
                path, f"{name} has {what} {printable(found, 60)}, expected {expected}; {read}"
            )


ACTIVATIONS = ("Hardswish", "LeakyReLU", "ReLU")
"""That stand in SiLU's place in some of these networks."""


def take_settings(path: Path, weights: Weights, module: nn.Module) -> None:
    """Gives the module what a whole module has besides tensors, where it differs between networks
    of one description: the epsilon of batch norms, the activations."""
    for name, ours, other in list(_both(path, weights, module)):
        eps, kind = other.state.get("eps"), other.kind.short
        if isinstance(ours, nn.BatchNorm2d) and type(eps) is float and 0 < eps < 1:
            ours.eps = eps
        if isinstance(ours, nn.SiLU) and kind in ACTIVATIONS:
            made = getattr(nn, kind)()
            slope = other.state.get("negative_slope")
            if isinstance(made, nn.LeakyReLU) and isinstance(slope, (int, float)):
                made.negative_slope = float(slope)
            before, _, last = name.rpartition(".")
            setattr(module.get_submodule(before), last, made)


def _both(
    path: Path, weights: Weights, module: nn.Module
) -> Iterator[tuple[str, nn.Module, Inert]]:
    """Our modules and those of the same name in a pickled network, where it holds one."""
    if weights.root is None:
        return
    theirs = dict(modules_of(path, weights.root))
    before = next((p[: -len("model.0.")] for p in theirs if p.endswith("model.0.")), "")
    for name, ours in module.named_modules():
        if (other := theirs.get(f"{before}{name}.")) is not None:
            yield name, ours, other


def _differences(ours: nn.Module, other: Inert) -> Iterable[tuple[str, object, object]]:
    kind, state = other.kind.short, other.state
    if isinstance(ours, nn.SiLU) and kind != "SiLU":
        yield "activation", "SiLU", kind
    names: tuple[str, ...] = ()
    if isinstance(ours, nn.Conv2d):
        names = ("stride", "padding", "dilation", "groups")
    elif isinstance(ours, nn.BatchNorm2d):
        names = ("eps",)
    elif isinstance(ours, nn.MaxPool2d):
        names = ("kernel_size", "stride", "padding")
    elif isinstance(ours, nn.Upsample):
        names = ("mode",)
    elif isinstance(ours, Bottleneck) and state.get("add", ours.shortcut) != ours.shortcut:
        yield "shortcut", ours.shortcut, state["add"]
    for name in names:
        expected, found = getattr(ours, name), state.get(name, getattr(ours, name))
        if not _same(expected, found):
            yield name, expected, found


def _same(expected: object, found: object) -> bool:
    if isinstance(found, str) or isinstance(expected, str):
        return expected == found
    return numbers(expected) == numbers(found)


def numbers(value: object) -> tuple[float, ...] | None:
    """A number, a pair of equal numbers or a 1-D tensor as a tuple of floats, else None."""
    if isinstance(value, Tensor) and value.ndim == 1 and value.numel() <= 16:
        return tuple(value.to(torch.float64).tolist())
    if isinstance(value, int | float):
        return (float(value),)
    if isinstance(value, tuple | list) and all(isinstance(v, int | float) for v in value):
        numbers = tuple(float(v) for v in value)
        return numbers[:1] if len(set(numbers)) == 1 else numbers
    return None
