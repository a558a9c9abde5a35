"""What can be wrong with a checkpoint, always in one line that starts with the file's name."""

from __future__ import annotations

from pathlib import Path

from handlers.errors import KitError


def printable(text: object, limit: int = 240) -> str:
    """``text`` on one line, control characters escaped, cut at ``limit`` characters.

    Names inside a foreign file end up in messages; they must not move the terminal's cursor.
    """
    line = " ".join(str(text).split())
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."


class SourceError(KitError):
    """A checkpoint cannot be used.

    Args:
        path: the file.
        problem: what was found, what was expected and what to do next.
    """

    def __init__(self, path: Path, problem: str):
        super().__init__(f"{printable(path)}: {printable(problem, 700)}")
        self.path = path


class UnreadableFile(SourceError):
    """Missing, empty, truncated, damaged, or not a checkpoint at all."""


class UnsafePickle(SourceError):
    """The pickle asks for something that could run code; nothing of it was run."""


class UnsupportedLayout(SourceError):
    """Readable, but not a network that the kit knows."""


class NetworkMismatch(SourceError):
    """The class named by ``--network`` cannot be imported or does not fit the state dict."""
