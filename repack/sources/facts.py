"""Values out of JSON and YAML files, each checked where it is taken, errors in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from repack.sources.errors import UnreadableFile, UnsupportedLayout, printable

MAX_TEXT_BYTES = 16 * 2**20
"""Plans and configurations are a few kilobytes."""

MAX_YAML_BYTES = 2**17
"""Its reader is slow, and makes whole numbers keys, of which many may hash alike."""


def read_text(path: Path) -> bytes:
    """A small file's bytes.

    Raises:
        UnreadableFile: missing or too large.
    """
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise UnreadableFile(path, f"{path.stat().st_size:,} bytes, at most {MAX_TEXT_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableFile(path, f"cannot be read ({error.strerror})") from error


def parse(path: Path, data: bytes) -> dict[str, Any]:
    """The mapping in a JSON or, by its name, a YAML file.

    Raises:
        UnreadableFile: neither, or it holds no mapping.
    """
    try:
        found = _yaml(data) if path.suffix in (".yaml", ".yml") else json.loads(data)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        kind = "YAML" if path.suffix in (".yaml", ".yml") else "JSON"
        raise UnreadableFile(path, f"no {kind} ({error})") from error
    if not isinstance(found, dict):
        raise UnreadableFile(path, f"holds a {type(found).__name__}, expected a mapping")
    return found


def read(path: Path) -> dict[str, Any]:
    """``parse`` of a file."""
    return parse(path, read_text(path))


def _yaml(data: bytes) -> object:
    """YAML without tags and without aliases, which could make a small file endlessly large."""
    if len(data) > MAX_YAML_BYTES:
        raise ValueError(f"{len(data):,} bytes, at most {MAX_YAML_BYTES:,}: write it as JSON")
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(data)):
        raise ValueError("an alias (*name); write the value out")
    found: object = yaml.safe_load(data)
    return found


class Facts:
    """A mapping of a file, with the place it was found at, so that a mistake can be named.

    Args:
        path: the file.
        data: what was found there.
        place: where in the file, for example "configurations.2d".
    """

    def __init__(self, path: Path, data: object, place: str = ""):
        self.path = path
        self.place = place
        if not isinstance(data, Mapping):
            raise self.wrong("", data, "a mapping")
        self.data: Mapping[str, Any] = data

    def wrong(self, key: str, found: object, expected: str) -> UnsupportedLayout:
        """The error for one value; the caller raises it."""
        where = ".".join(part for part in (self.place, key) if part)
        shown = "nothing" if found is None else printable(repr(found), 80)
        return UnsupportedLayout(self.path, f"{where or 'content'}: {shown}, expected {expected}")

    def within(self, key: str) -> Facts:
        """The mapping under ``key``."""
        return Facts(self.path, self.data.get(key), f"{self.place}.{key}".lstrip("."))

    def text(self, key: str, default: str | None = None) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, value, "a text")
        return value

    def yes(self, key: str, default: bool) -> bool:
        value = self.data.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value: Any = self.data.get(key, default)
        if not _is_number(value):
            raise self.wrong(key, value, "a number")
        return float(value)

    def numbers(self, key: str, counts: tuple[int, ...], positive: bool = True) -> list[float]:
        """A list of finite numbers, of one of the lengths in ``counts``."""
        value = self.data.get(key)
        good = isinstance(value, list | tuple) and len(value) in counts
        if not good or not all(_is_number(v) and (v > 0 or not positive) for v in value or ()):
            sizes = " or ".join(map(str, counts))
            raise self.wrong(key, value, f"{sizes} {'positive ' if positive else ''}numbers")
        return [float(v) for v in value or ()]

    def sizes(self, key: str, counts: tuple[int, ...]) -> list[int]:
        """A list of whole numbers of at least 1, of one of the lengths in ``counts``."""
        value = self.data.get(key)
        good = isinstance(value, list | tuple) and len(value) in counts
        if not good or not all(type(v) is int and v > 0 for v in value or ()):
            lengths = " or ".join(map(str, counts))
            raise self.wrong(key, value, f"{lengths} whole numbers of at least 1")
        return list(value or ())


def _is_number(value: object) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number that no float holds
        return False
