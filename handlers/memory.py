"""How much memory the volumes of one worker may take."""

from __future__ import annotations

import os
from pathlib import Path

from handlers.errors import TooLarge

LIMIT_VARIABLE = "KIT_VOLUME_MEMORY_MB"
"""Environment variable with the MiB that the volumes of one worker may take."""

JSON_CHARACTER = 4
"""Bytes of memory that a character of JSON may become: one beyond ASCII widens its whole text."""

JSON_ELEMENT = 72
"""Bytes that each list, object and element may take besides: ``{},`` is a dictionary of 64."""


def machine_memory() -> int:
    """Bytes of memory of this machine, or of its container where that has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            total = min(total, int((Path("/sys/fs/cgroup") / name).read_text()))
        except (OSError, ValueError):  # no container, or no limit ("max")
            continue
    return total


def memory_limit() -> int:
    """Bytes that the volumes of this worker may take: as the server set it, else half of all."""
    text = os.environ.get(LIMIT_VARIABLE, "")
    return int(text) << 20 if text.isdigit() else machine_memory() // 2


def mib(size: int) -> str:
    """Bytes as a message has them."""
    return f"{size / (1 << 20):,.1f} MiB"


def require(needed: int, limit: int, what: str) -> None:
    """Raises ``TooLarge``, with both figures, where more is needed than may be taken."""
    if needed > limit:
        raise TooLarge(
            f"{what} needs {mib(needed)} of memory; the limit of this worker is {mib(limit)}"
        )


def json_memory(data: bytes) -> int:
    """Bytes that a piece of JSON may take once it is unpacked, at most."""
    elements = data.count(b",") + data.count(b"[") + data.count(b"{")
    return JSON_CHARACTER * len(data) + JSON_ELEMENT * elements


def require_json(data: bytes) -> None:
    """Raises ``TooLarge`` where JSON could unpack to more than may be taken."""
    require(json_memory(data), memory_limit(), f"JSON of {len(data):,} bytes")
