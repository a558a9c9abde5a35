"""Any net of volumes: its weights as usual, and a small YAML file that says how it was trained.

    channels:
      - {name: CT, normalisation: {kind: ct, lower: -100, upper: 240, mean: 76.9, std: 67.5}}
    labels: [background, liver, tumour]
    patch: [64, 128, 128]
    spacing: [2.5, 0.8, 0.8]

Every key is checked; one that is not known is refused, so that a misspelt one cannot be lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from handlers.volumes.recipe import NORMALISATIONS
from repack.sources.errors import UnsupportedLayout, printable
from repack.sources.facts import Facts, read
from repack.sources.source import Source

KEYS = {
    "channels": True,
    "labels": True,
    "patch": True,
    "spacing": False,
    "orientation": False,
    "transpose": False,
    "crop": False,
    "answer": False,
    "resampling": False,
    "overlap": False,
    "gaussian": False,
    "mirror": False,
}
"""What the file may say, and whether it must."""

AXES = ("RL", "AP", "SI")
"""An orientation names one end of each, in any order."""


def apply(source: Source, file: Path) -> Source:
    """The net of ``source`` as one that segments volumes as ``file`` says.

    Raises:
        SourceError: no YAML, a key that is unknown or missing, a value that cannot be; one line.
    """
    facts = Facts(file, read(file))
    _check_keys(facts, KEYS)
    patch = facts.sizes("patch", (2, 3))
    channels = [_channel(facts, i, c) for i, c in enumerate(_list(facts, "channels"))]
    labels = _list(facts, "labels")
    if len(labels) < 2 or not all(isinstance(name, str) for name in labels):
        raise facts.wrong("labels", labels, "at least two names, the background's first")
    settings = {
        "framework": "plain",
        "channels": channels,
        "orientation": _orientation(facts),
        "spacing": _optional(facts, "spacing", len(patch)),
        "transpose_forward": _order(facts),
        "crop": _one_of(facts, "crop", (None, "nonzero")),
        "patch": patch,
        "resampling": _resampling(facts),
        "windows": _windows(facts, len(patch)),
        "answer": _answer(facts, labels),
        "label_values": list(range(len(labels))),
    }
    return replace(source, task="segmentation", labels=tuple(labels), settings=settings)


def _check_keys(facts: Facts, known: Mapping[str, bool]) -> None:
    where = f"{facts.place}: " if facts.place else ""
    unknown = [str(key) for key in facts.data if key not in known]
    if unknown:
        raise UnsupportedLayout(
            facts.path,
            f"{where}unknown key {printable(unknown[0], 60)!r}; known are {', '.join(known)}",
        )
    missing = [key for key, needed in known.items() if needed and key not in facts.data]
    if missing:
        raise UnsupportedLayout(facts.path, f"{where}{missing[0]!r} is missing")


def _list(facts: Facts, key: str) -> list[Any]:
    found = facts.data.get(key)
    if not isinstance(found, list) or not found:
        raise facts.wrong(key, found, "a list")
    return found


def _channel(facts: Facts, i: int, data: object) -> dict[str, Any]:
    channel = Facts(facts.path, data, f"channels[{i}]")
    _check_keys(channel, {"name": True, "normalisation": True})
    given = channel.within("normalisation")
    kind = given.text("kind")
    if kind not in NORMALISATIONS:
        raise given.wrong("kind", kind, f"one of {', '.join(NORMALISATIONS)}")
    needed = NORMALISATIONS[kind]
    extra = {"clip": False} if kind == "scale_range" else {}
    _check_keys(given, {"kind": True, **dict.fromkeys(needed, True), **extra})
    numbers: dict[str, Any] = {key: given.number(key) for key in needed}
    if extra:
        numbers["clip"] = given.yes("clip", False)
    return {"name": channel.text("name"), "normalisation": {"kind": kind, **numbers}}


def _orientation(facts: Facts) -> str | None:
    if facts.data.get("orientation") is None:
        return None
    found = facts.text("orientation")
    if sorted(axis for letter in found for axis in AXES if letter in axis) != sorted(AXES):
        raise facts.wrong("orientation", found, "such as RAS or LPS")
    return found


def _optional(facts: Facts, key: str, count: int) -> list[float] | None:
    return None if facts.data.get(key) is None else facts.numbers(key, (count,))


def _order(facts: Facts) -> list[int]:
    found = facts.data.get("transpose", [0, 1, 2])
    if not isinstance(found, list) or sorted(map(str, found)) != ["0", "1", "2"]:
        raise facts.wrong("transpose", found, "an order of 0, 1 and 2")
    return [int(axis) for axis in found]


def _one_of(facts: Facts, key: str, known: tuple[str | None, ...]) -> str | None:
    found = facts.data.get(key)
    if found not in known:
        raise facts.wrong(key, found, f"one of {', '.join(str(k or 'null') for k in known)}")
    return found


def _resampling(facts: Facts) -> dict[str, Any]:
    """Spline orders of scans and of logits; cubic and linear where nothing is said."""
    given = facts.within("resampling") if facts.data.get("resampling") else None
    if given is not None:
        _check_keys(given, {"data": False, "logits": False})
    orders = {}
    for key, usual in (("data", 3), ("logits", 1)):
        order = usual if given is None else given.number(key, usual)
        if order not in range(6):
            raise facts.wrong(f"resampling.{key}", order, "a spline order from 0 to 5")
        orders[key] = {"order": int(order), "order_z": 0, "separate_z": None}
    return orders


def _windows(facts: Facts, dimensions: int) -> dict[str, Any]:
    overlap = facts.number("overlap", 0.5)
    if not 0 <= overlap < 1:
        raise facts.wrong("overlap", overlap, "a share of the patch from 0 to below 1")
    mirror = facts.data.get("mirror", [])
    if not isinstance(mirror, list) or not all(axis in range(dimensions) for axis in mirror):
        raise facts.wrong("mirror", mirror, f"a list of axes from 0 to {dimensions - 1}")
    gaussian = facts.yes("gaussian", True)
    return {"overlap": overlap, "gaussian": gaussian, "sigma": 0.125, "mirror": sorted(set(mirror))}


def _answer(facts: Facts, labels: list[str]) -> dict[str, Any]:
    """Argmax over one channel per label, or a sigmoid per foreground label.

    "written" are the channels in the order in which they are written, where that is given.
    """
    found = facts.data.get("answer", "argmax")
    if found == "argmax":
        return {"kind": "argmax"}
    given = Facts(facts.path, found, "answer")
    _check_keys(given, {"sigmoid_threshold": True, "order": False})
    threshold = given.number("sigmoid_threshold")
    if not 0 < threshold < 1:
        raise given.wrong("sigmoid_threshold", threshold, "a number between 0 and 1")
    answer = {"kind": "sigmoid_threshold", "threshold": threshold}
    order = given.data.get("order")
    if order is None:
        return answer
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(labels[1:]):
        expected = f"each of {', '.join(labels[1:])} once, the one that is written over all last"
        raise given.wrong("order", order, expected)
    return answer | {"written": [labels[1:].index(name) for name in order]}
