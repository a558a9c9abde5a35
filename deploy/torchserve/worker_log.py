"""Finds in the workers' log why a model does not load."""

from __future__ import annotations

import re
from pathlib import Path

LINE = re.compile(
    r"^\S+ \[\w+ *\] W-\d+-(?P<model>.+)_(?P<version>[^_]+?)-(?P<stream>stdout|stderr)"
    r" - (?P<text>.*)$"
)
DIED = "Backend worker process died"
REFUSED = re.compile(r"^REFUSED (\S+): (.*)$")
FAILED = re.compile(r"^Failed to load model (\S+), exception (.*)$")
EXCEPTION = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Missing)): ?(.*)$")


def model_lines(log: Path, offset: int, model: str) -> list[tuple[str, str]]:
    """(stream, line) of what the model's workers wrote since ``offset`` bytes into the log.

    Args:
        model: its name, or NAME/VERSION.
    """
    name, _, version = model.partition("/")
    try:
        with log.open("rb") as file:
            if offset > log.stat().st_size:  # rotated since
                offset = 0
            file.seek(offset)
            text = file.read(4 << 20).decode("utf-8", "replace")
    except OSError:
        return []
    found = (LINE.match(line) for line in text.splitlines())
    return [
        (m["stream"], m["text"])
        for m in found
        if m and m["model"] == name and version in ("", m["version"])
    ]


def is_death(stream: str, line: str) -> bool:
    """Whether a worker ended: it says so itself, or Python does where it could not even start."""
    started = stream == "stdout"
    return line.startswith(DIED) if started else EXCEPTION.match(line) is not None


def reason(log: Path, offset: int, model: str) -> str | None:
    """Why a worker of the model died while loading it, in one line; None where none did."""
    found = model_lines(log, offset, model)
    if not any(is_death(stream, line) for stream, line in found):
        return None
    lines = [line for _, line in found]
    for pattern in (REFUSED, FAILED):
        for line in lines:
            if match := pattern.match(line):
                return match[2]
    errors = [m for m in map(EXCEPTION.match, lines) if m]
    if not errors:
        return "its worker process ended"
    # A failed import is retried as a built-in handler's name; the first error is the cause.
    hidden = any("ts.torch_handler" in m[2] for m in errors)
    chosen = errors[0] if hidden else errors[-1]
    return f"{chosen[1]}: {chosen[2]}" if chosen[2] else chosen[1]
