"""How many requests the guard refused, by reason, since its start."""

from __future__ import annotations

import mmap

from deploy.torchserve.guard.http import REASONS


class Counts:
    """Counters in memory that processes share, once they are forked: each writes its own.

    Attributes:
        process: number of the process that counts.
    """

    def __init__(self, processes: int = 1):
        self.process = 0
        self._cells = memoryview(mmap.mmap(-1, 8 * processes * len(REASONS))).cast("Q")

    def add(self, reason: str) -> None:
        """Counts one."""
        self._cells[self.process * len(REASONS) + REASONS.index(reason)] += 1

    def total(self) -> dict[str, int]:
        """Of all processes, by each of ``REASONS``."""
        return {name: sum(self._cells[i :: len(REASONS)]) for i, name in enumerate(REASONS)}
