"""A request's own settings, within those that the archive was packed with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from handlers.errors import BadInput, Unprocessable

HEADER = "x-parameters"
"""Header of a request that holds its settings as a query string does, and of its answer that says
which held. A server that takes query strings hands them over so."""

LISTED = 20
"""Classes that a refusal names."""


@dataclass(frozen=True)
class Limits:
    """Which of a detector's boxes are answered.

    Attributes:
        confidence: boxes of at most this confidence are not.
        iou: overlap above which the less confident box of a class is dropped; None where the
            network chooses its boxes itself.
        max_detections: most of a picture.
        classes: indices of the only classes; empty for all.
    """

    confidence: float
    iou: float | None
    max_detections: int
    classes: tuple[int, ...] = ()

    def shown(self, labels: Sequence[str]) -> dict[str, Any]:
        """As the answer has it, by the parameters' names."""
        names = [labels[i] for i in self.classes] or "all"
        found = {"conf": self.confidence, "max_det": self.max_detections, "classes": names}
        return found if self.iou is None else {"iou": self.iou, **found}


def taken(
    row: Mapping[str, Any], text: str, known: Sequence[str]
) -> tuple[Mapping[str, Any], dict[str, str]]:
    """A request without its settings, and these by name.

    Args:
        row: as TorchServe hands it over; settings may be fields beside the input's, in a form or in
            JSON that was decoded.
        text: of the header, or "".
        known: the settings that the handler takes.

    Raises:
        BadInput: a setting that is not known, has no value, or comes twice.
    """
    body = next(iter(row.values())) if len(row) == 1 else None
    nested = isinstance(body, Mapping)
    fields: Mapping[str, Any] = body if isinstance(body, Mapping) else row
    own = {name: _text(name, fields[name]) for name in known if name in fields}
    if own:
        rest = {name: value for name, value in fields.items() if name not in own}
        row = {next(iter(row)): rest} if nested else rest
    expected = ", ".join(known) or "none"
    pairs = [*parse_qsl(text, keep_blank_values=True), *own.items()]
    names = [name for name, _ in pairs]
    if unknown := sorted(set(names) - set(known)):
        raise BadInput(f"parameters {', '.join(unknown)} came; expected {expected}")
    twice = sorted({name for name in names if names.count(name) > 1})
    empty = sorted(name for name, value in pairs if not value.strip())
    if twice or empty:
        told = f"{', '.join(twice)} came twice" if twice else f"{', '.join(empty)} came empty"
        raise BadInput(f"parameters {told}; expected each once, with a value")
    return row, dict(pairs)


def _text(name: str, value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    if isinstance(value, (str, int, float)):
        return str(value)
    raise BadInput(f"parameter {name}: {type(value).__name__} came; expected a text or a number")


def line(shown: Mapping[str, Any]) -> str:
    """The header of an answer."""
    return urlencode({k: ",".join(v) if isinstance(v, list) else v for k, v in shown.items()})


def limits(given: Mapping[str, str], packed: Limits, labels: Sequence[str]) -> Limits:
    """The packed limits as a request narrows them.

    ``iou`` alone may be any: what it is applied to, the boxes above the packed confidence, is
    there whatever was packed.

    Raises:
        Unprocessable: a value beyond what was packed, or one that means nothing.
    """
    confidence, iou, most = packed.confidence, packed.iou, packed.max_detections
    if "conf" in given:
        confidence = number("conf", given, packed.confidence, 1, "which is packed, ")
    if "iou" in given:
        if iou is None:
            raise Unprocessable(
                f"iou {given['iou']} came; expected none: this network chooses its boxes itself, "
                "and nothing is suppressed after it"
            )
        iou = number("iou", given, 0, 1)
    if "max_det" in given:
        most = whole("max_det", given, packed.max_detections, ", which is packed")
    classes = _classes(given["classes"], labels) if "classes" in given else ()
    return Limits(confidence, iou, most, classes)


def number(name: str, given: Mapping[str, str], low: float, high: float, why: str = "") -> float:
    """A parameter's value, between two that it may be.

    Raises:
        Unprocessable: it is not.
    """
    try:
        found = float(given[name])
    except ValueError:
        found = float("nan")
    if low <= found <= high:
        return found
    expected = f"a number from {low:g}, {why}to {high:g}" if why else f"{low:g} to {high:g}"
    raise Unprocessable(f"{name} {given[name]} came; expected {expected}")


def whole(name: str, given: Mapping[str, str], most: int, why: str = "") -> int:
    """A parameter's value, a whole number from 1 on.

    Raises:
        Unprocessable: it is none, or larger than ``most``.
    """
    text = given[name].strip()
    if text.isdecimal() and text.isascii() and len(text) < 10 and 1 <= int(text) <= most:
        return int(text)
    raise Unprocessable(f"{name} {text} came; expected a whole number from 1 to {most}{why}")


def _classes(text: str, labels: Sequence[str]) -> tuple[int, ...]:
    """Classes by name or number, divided by commas; a name that holds a comma stands alone."""
    asked = [text] if text in labels else [part.strip() for part in text.split(",")]
    found, unknown = set(), []
    for name in asked:
        if name in labels:
            found.add(labels.index(name))
        elif name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < len(labels):
            found.add(int(name))
        else:
            unknown.append(name)
    if not unknown:
        return tuple(sorted(found))
    listed = ", ".join(labels[:LISTED]) + (", ..." if len(labels) > LISTED else "")
    raise Unprocessable(
        f"classes {', '.join(map(repr, unknown))} came; expected names or numbers of {listed} "
        f"(0 to {len(labels) - 1})"
    )
