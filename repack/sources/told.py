"""What a file says of itself beside its network: class names, task, size, normalising."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repack.options import MAX_SIDE, Three
from repack.sources.errors import printable

MOST = 2**20
"""Letters of one entry that is read."""


@dataclass(frozen=True)
class Told:
    """What a file says of itself, as exporters write it beside the network.

    Attributes:
        names: one a class, in the model's order.
        task: in the exporter's word; Ultralytics' are classify, detect, segment, pose and obb.
        sides: height and width that the network was trained for, pixels.
        batch: number of pictures that it was exported for; None where that is free or not said.
        stride: the sides are multiples of this, pixels.
        mean, std: of the training pictures, RGB, of values between 0 and 1.
        channels: of a picture; 3 where nothing is said.
        points: of a pose, how many points a box has, and of how many values each.
        characters: what a reader of text tells apart, without the blank.
        unread: by its field a line for each entry that says something in a way that is not known.
    """

    names: tuple[str, ...] = ()
    task: str = ""
    sides: tuple[int, int] | None = None
    batch: int | None = None
    stride: int | None = None
    mean: Three | None = None
    std: Three | None = None
    channels: int = 3
    points: tuple[int, int] | None = None
    characters: tuple[str, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)

    @property
    def kit_task(self) -> str:
        """The key of ``repack.tasks.TASKS`` that the file's task is; "tensors" for any other."""
        return TASKS.get(self.task, "tensors")

    @property
    def facts(self) -> dict[str, Any]:
        """What the passport records of it, names apart."""
        shown = {
            "task": self.task,
            "imgsz": list(self.sides or ()),
            "stride": self.stride,
            "mean": list(self.mean or ()),
            "std": list(self.std or ()),
            "characters": list(self.characters),
        }
        return {key: value for key, value in shown.items() if value}


CLASSIFY = "classify"
"""Ultralytics' word for a classifier. These are trained on values from 0 to 1 as they are, on the
centre of pictures whose shorter side is the network's own."""

DETECT, SEGMENT, POSE, OBB = "detect", "segment", "pose", "obb"
TASKS = {
    CLASSIFY: "classification",
    DETECT: "detection",
    SEGMENT: "instances",
    POSE: "pose",
    OBB: "oriented",
}
"""Their word for each of the kit's tasks."""


def read(entries: Mapping[str, Any]) -> Told:
    """Entries of an ONNX file's ``metadata_props``, or of a TorchScript file's ``config.txt``.

    Args:
        entries: values as text in Python's or JSON's notation, or parsed already.
    """
    found: dict[str, Any] = {}
    unread = {}
    for key, into, take in ENTRIES:
        if key not in entries or into in found:
            continue
        try:
            found[into] = take(entries[key] if take is _characters else _value(entries[key]))
        except (ValueError, TypeError, LookupError, SyntaxError, RecursionError, MemoryError):
            shown = printable(entries[key], 60)
            unread[into] = f"the file's own {key!r} is {shown}, which is not understood"
    if _arguments(entries.get("args")).get("dynamic"):
        found.pop("batch", None)
    return Told(**found, unread=unread)


def of_text(text: bytes) -> Told:
    """What a ``config.txt`` says; nothing where it is no JSON object."""
    try:
        entries = json.loads(text[:MOST])
    except (ValueError, RecursionError):
        return Told()
    return read(entries) if isinstance(entries, dict) else Told()


def _value(given: Any) -> Any:
    """An entry's value; a text that is no notation is itself."""
    if not isinstance(given, str) or len(given) > MOST:
        return given
    if given[:1] in "[{(-.0123456789" and given:
        return ast.literal_eval(given)
    return given


def _arguments(given: Any) -> dict[str, Any]:
    """The exporter's own arguments, where they are noted."""
    try:
        value = _value(given)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return {}
    return value if isinstance(value, dict) else {}


def _names(given: Any) -> tuple[str, ...]:
    """A list, or a mapping from numbers that begin with 0, also as text."""
    if isinstance(given, dict):
        by_number = {int(key): name for key, name in given.items()}
        given = [by_number[i] for i in range(len(given))] if by_number else None
    if not isinstance(given, (list, tuple)) or not given or "" in given:
        raise ValueError
    if not all(isinstance(name, str) for name in given):
        raise TypeError
    return tuple(printable(name) for name in given)


def _word(given: Any) -> str:
    if not isinstance(given, str):
        raise TypeError
    return printable(given, 40)


def _number(given: Any) -> int:
    if type(given) is not int or not 0 < given <= MAX_SIDE:
        raise ValueError
    return given


def _sides(given: Any) -> tuple[int, int]:
    """One side, or height and width; of a whole shape its last two."""
    parts = list(given)[-2:] if isinstance(given, (list, tuple)) else [given] * 2
    height, width = (_number(n) for n in (parts * 2 if len(parts) == 1 else parts))
    return height, width


def _first(given: Any) -> int:
    return _number(given[0])


def _three(given: Any) -> Three:
    """One number or three, of values between 0 and 1."""
    parts = [float(n) for n in (given if isinstance(given, (list, tuple)) else [given])]
    red, green, blue = parts * 3 if len(parts) == 1 else parts
    if not all(math.isfinite(n) and 0 <= n <= 1 for n in parts):
        raise ValueError
    return red, green, blue


def _spread(given: Any) -> Three:
    if 0 in (found := _three(given)):
        raise ValueError
    return found


def _characters(given: Any) -> tuple[str, ...]:
    """One a line, as PaddleOCR's exports have them."""
    if not isinstance(given, str):
        raise TypeError
    return tuple(given.splitlines())


ENTRIES: Sequence[tuple[str, str, Callable[[Any], Any]]] = (
    ("names", "names", _names),
    ("task", "task", _word),
    ("imgsz", "sides", _sides),
    ("shape", "sides", _sides),
    ("batch", "batch", _number),
    ("shape", "batch", _first),
    ("stride", "stride", _number),
    ("mean", "mean", _three),
    ("std", "std", _spread),
    ("channels", "channels", _number),
    ("kpt_shape", "points", _sides),
    ("character", "characters", _characters),
)
"""The key of each entry, the field that it fills in, and how it is read; of two for one field the
first that is there."""

INDEX = "index_to_name.json"
"""TorchServe's file of class names, in the model's folder."""
