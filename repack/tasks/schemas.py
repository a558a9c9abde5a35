"""JSON Schema (2020-12) of what requests and answers are made of; each task's own are in its
``answers.py``, which gives ``taken`` and ``given``: media type to schema, ``{}`` for bytes; and
``parameters``, where a request may bring settings: name to schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from handlers.passport import Passport, TensorSpec

Schema = dict[str, Any]

JSON, BYTES = "application/json", "application/octet-stream"
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
DRAWN = "image/jpeg"
PICTURES = ("image/jpeg", "image/png", "image/webp", "image/bmp")


def record(**fields: Schema) -> Schema:
    """An object with all of these fields, and maybe more."""
    return {"type": "object", "properties": fields, "required": list(fields)}


def listed(item: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": item, **bounds}


def row(length: int, item: Schema = NUMBER) -> Schema:
    """An array of so many items."""
    return listed(item, minItems=length, maxItems=length)


def answer(passport: Passport, **more: Schema) -> Schema:
    """A JSON answer: what every one has, and these fields."""
    about = {"name": passport.name, "version": passport.version, "task": passport.task}
    return record(
        model=record(**{key: {"const": value} for key, value in about.items()}),
        runtime=record(name=TEXT, precision=TEXT, fallback={"type": ["string", "null"]}),
        **more,
    )


def classes(passport: Passport) -> dict[str, Schema]:
    """The fields that name a class."""
    number = {"type": "integer", "minimum": 0, "maximum": max(0, len(passport.labels) - 1)}
    return {"class": {"enum": list(dict.fromkeys(passport.labels))}, "class_id": number}


def whole(most: int) -> Schema:
    """A whole number from 1 on."""
    return {"type": "integer", "minimum": 1, "maximum": most}


IMAGE = record(width=COUNT, height=COUNT)


def files(*media_types: str) -> dict[str, Schema]:
    """A file as a request may carry it: as it is, or in base64."""
    encoded = {"type": "string", "contentEncoding": "base64"}
    return {
        **{kind: {} for kind in (BYTES, *media_types)},
        JSON: record(data=encoded),
        "text/plain": encoded,
    }


def pictures(passport: Passport) -> dict[str, Schema]:
    """What is taken by every model of pictures."""
    return files(*PICTURES)


def tensor(spec: TensorSpec) -> Schema:
    """Nested lists of a tensor's values."""
    found: Schema = {"type": "boolean" if spec.dtype == "bool" else "number"}
    if "int" in spec.dtype:
        found = {"type": "integer"}
    if spec.values:
        found["enum"] = list(spec.values)
    elif spec.range and spec.dtype != "bool":
        found["minimum"], found["maximum"] = spec.range
    for length in reversed(spec.shape):
        found = row(length, found) if isinstance(length, int) else listed(found, minItems=1)
    shape = ", ".join(map(str, spec.shape))
    return {**found, "description": f"{spec.dtype} [{shape}]"}


def by_name(specs: Sequence[TensorSpec]) -> Mapping[str, Schema]:
    return {spec.name: tensor(spec) for spec in specs}
