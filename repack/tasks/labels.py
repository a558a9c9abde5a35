"""Names of a model's classes: the user's, the file's own, or those of a file beside it."""

from __future__ import annotations

import json
from pathlib import Path

from handlers.errors import KitError
from repack.sources.errors import printable
from repack.sources.source import Source
from repack.sources.told import INDEX


def named(
    source: Source, given: Path | None, classes: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """One name per class (the user's, else the file's own, else those of an ``index_to_name.json``
    beside it, else numbers), and a note where nobody named them all.

    Raises:
        KitError: they are not as many as the model's classes, or one of the user's is unusable.
    """
    beside = source.path.with_name(INDEX)
    if given is not None:
        names, whose = _of_file(given, "--labels "), f"--labels {given}: {{}} lines"
    elif source.told.names:
        names, whose = source.told.names, f"{source.path}: it names {{}} classes itself"
    elif beside.is_file():
        names, whose = _of_file(beside, ""), f"{beside}: {{}} names"
    else:
        numbers = tuple(str(i) for i in range(classes))
        return numbers, ("no --labels, so classes are named by their numbers",)
    if len(names) != classes:
        hint = "" if given else ": give --labels"
        raise KitError(f"{whose.format(len(names))}; the model has {classes} classes{hint}")
    return names, ((f"class names are those of {beside}",) if whose.startswith(str(beside)) else ())


def count(given: Path | None) -> int:
    """How many classes the user names; 0 where nobody does.

    Raises:
        KitError: as ``named``.
    """
    return 0 if given is None else len(_of_file(given, "--labels "))


def _of_file(path: Path, flag: str) -> tuple[str, ...]:
    """Class names out of a text or JSON file.

    Raises:
        KitError: no such file, or an empty name.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        raise KitError(f"{flag}{path}: cannot be read ({reason})") from None
    lines = _of_json(path, text, flag) if path.suffix == ".json" else text.rstrip().splitlines()
    names = tuple(printable(line.strip()) for line in lines)
    if "" in names:
        line = names.index("") + 1
        raise KitError(f"{flag}{path}, line {line}: empty; expected a class name")
    return names


def _of_json(path: Path, text: str, flag: str) -> list[str]:
    """TorchServe's ``index_to_name.json``: names by number, ``{"0": "cat"}`` or ``{"0": [id,
    "cat"]}``, or a plain list of them.

    Raises:
        KitError: something else.
    """
    expected = 'expected {"0": "cat", "1": "dog"} or ["cat", "dog"]'
    try:
        told = json.loads(text)
    except ValueError as e:
        raise KitError(f"{flag}{path}: no JSON ({e}); {expected}") from None
    if isinstance(told, dict):
        if set(told) != {str(i) for i in range(len(told))}:
            raise KitError(f"{flag}{path}: numbers from 0 on do not name its keys; {expected}")
        told = [told[str(i)] for i in range(len(told))]
    listed = told if isinstance(told, list) else []
    names = [n[-1] if isinstance(n, list) and n else n for n in listed]
    if not names or not all(isinstance(n, str) for n in names):
        raise KitError(f"{flag}{path}: {expected}")
    return names
