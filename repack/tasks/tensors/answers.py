"""Requests and answers of raw tensors: each input and output with its own type and shape."""

from __future__ import annotations

from math import prod
from typing import Any

from handlers.passport import Passport, TensorSpec
from handlers.tensors import NPZ
from repack.tasks.schemas import BYTES, COUNT, JSON, Schema, answer, by_name, listed, record, row

MOST = 1000
"""Values of a tensor that is shown as an example."""


def taken(passport: Passport) -> dict[str, Schema]:
    inputs = record(**by_name(passport.inputs))
    inputs["additionalProperties"] = False
    ways = [record(inputs=inputs), record(instances=listed({}, minItems=1))]
    found: Schema = {"oneOf": ways}
    lengths = [[n if isinstance(n, int) else 1 for n in spec.shape] for spec in passport.inputs]
    if sum(map(prod, lengths)) <= MOST:
        pairs = zip(passport.inputs, lengths, strict=True)
        found["examples"] = [{"inputs": {spec.name: _example(spec, n) for spec, n in pairs}}]
    return {BYTES: {}, NPZ: {}, JSON: found}


def given(passport: Passport) -> dict[str, Schema]:
    outputs = record(
        **{
            spec.name: record(
                shape=row(len(spec.shape), COUNT), dtype={"const": spec.dtype}, data=values
            )
            for spec, values in zip(
                passport.outputs, by_name(passport.outputs).values(), strict=True
            )
        }
    )
    ways = [answer(passport, outputs=outputs), answer(passport, predictions=listed({}))]
    return {JSON: {"oneOf": ways}, NPZ: {}}


def _example(spec: TensorSpec, lengths: list[int]) -> Any:
    """Nested lists of one value that the input takes."""
    low, high = spec.range or (0, 0)
    found: Any = min(max(0, low), high) if not spec.values else spec.values[0]
    found = bool(found) if spec.dtype == "bool" else int(found) if "int" in spec.dtype else found
    for length in reversed(lengths):
        found = [found] * length
    return found
