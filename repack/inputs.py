"""A model's inputs: what the user or the file says of them, and made-up ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import KitError
from handlers.passport import TensorSpec
from repack.options import Shapes, Values

Limits = dict[str, tuple[float, float]]
"""By input the lowest and the highest value."""

FREE = 8
"""Length of a free axis in made-up inputs."""

ANY = "any"
"""The word of an axis that the file gives no name: none is tied to another."""

PLACE = "input_{}"
"""Name of an input that the user left out: its place."""


def by_name(given: Mapping[str, Any], names: Sequence[str], flag: str) -> dict[str, Any]:
    """What a flag gave by name, or by place where the name was left out.

    Raises:
        KitError: the model has no such input.
    """
    places = {PLACE.format(i): name for i, name in enumerate(names)}
    found = {(key if key in names else places.get(key, key)): v for key, v in given.items()}
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise KitError(f"{flag} names {', '.join(unknown)}; the model has {', '.join(names)}")
    return found


def limited(
    specs: Iterable[TensorSpec], limits: Limits, values: Mapping[str, Values]
) -> tuple[TensorSpec, ...]:
    """Inputs with the values that they may hold: the user's, else a table's places.

    Raises:
        KitError: values that their type does not hold, or an input that the model has not.
    """
    specs = tuple(specs)
    asked = by_name(values, [s.name for s in specs], "--input-values")
    found = []
    for spec in specs:
        kind = np.dtype(spec.dtype)
        places = limits.get(spec.name) if kind.kind in "iu" else None
        told: Values = asked.get(spec.name, Values(range=places))
        for value in (*told.among, *(told.range or ())):
            if kind.kind in "iu" and not np.can_cast(np.min_scalar_type(int(value)), kind):
                raise KitError(f"--input-values {spec.name}: {value:g} is no {spec.dtype}")
            if kind.kind in "iub" and value != int(value):
                raise KitError(f"--input-values {spec.name}: {value:g} is no {spec.dtype}")
        found.append(replace(spec, range=told.range or spec.range, values=told.among))
    return tuple(found)


def sized(spec: TensorSpec, sides: tuple[int, int] | None) -> TensorSpec:
    """An input of pictures whose free height and width are those that the file states."""
    channels = (1, 3)
    if sides is None or len(spec.shape) != 4 or np.dtype(spec.dtype).kind != "f":
        return spec
    shape = list(spec.shape)
    at = 2 if shape[1] in channels else 1 if shape[3] in channels else 0
    if not at or not all(isinstance(n, str) for n in shape[at : at + 2]):
        return spec
    shape[at : at + 2] = sides
    return replace(spec, shape=tuple(shape))


def made_up(
    specs: Sequence[TensorSpec], rng: np.random.Generator, batch: int
) -> dict[str, NDArray[Any]]:
    """Values for every input: of those that it may hold, over its range, or standard normal.

    A first axis of any length gets the batch, and so does every axis of the same name.
    """
    ties = _batches(specs)
    return {s.name: _array(s, rng, batch, ties) for s in specs}


def like(specs: Sequence[TensorSpec], sample: Mapping[str, NDArray[Any]]) -> tuple[TensorSpec, ...]:
    """Inputs whose free axes, but the batch, are as long as a sample's."""
    ties, found = _batches(specs), []
    for spec in specs:
        sizes: list[int | str] = list(sample[spec.name].shape)
        for i, axis in enumerate(spec.shape):
            if i == 0 or axis in ties:
                sizes[i] = axis
        found.append(replace(spec, shape=tuple(sizes)))
    return tuple(found)


def _batches(specs: Sequence[TensorSpec]) -> set[str]:
    """The words of first axes, which other axes may share."""
    return {s.shape[0] for s in specs if s.shape and isinstance(s.shape[0], str)} - {ANY}


def _array(spec: TensorSpec, rng: np.random.Generator, batch: int, ties: set[str]) -> NDArray[Any]:
    sizes = [
        n if isinstance(n, int) else batch if i == 0 or n in ties else FREE
        for i, n in enumerate(spec.shape)
    ]
    kind = np.dtype(spec.dtype).kind
    if spec.values:
        return np.asarray(rng.choice(spec.values, sizes), spec.dtype)
    if spec.range and kind in "iu":
        return rng.integers(int(spec.range[0]), int(spec.range[1]) + 1, sizes).astype(spec.dtype)
    if kind in "iub":
        return rng.integers(0, 2, sizes).astype(spec.dtype)
    if spec.range:
        return rng.uniform(*spec.range, sizes).astype(spec.dtype)
    return rng.standard_normal(sizes).astype(spec.dtype)


def shown(shapes: Shapes) -> str:
    """Shapes as ``--input-shape`` takes them."""
    return ", ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items())
