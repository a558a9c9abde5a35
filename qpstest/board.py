"""The counters that all load-making processes of one window share."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.context import SpawnContext

FILL = -1
"""A request that keeps the load up but is not counted."""
END = -2
"""No further request: the window is over."""

_LEAD, _LIMIT, _SECONDS, _FILLED, _COUNTED, _ANSWERED, _FAILED, _STARTED, _STOP = range(9)


@dataclass(frozen=True)
class Progress:
    """How far a window has come.

    Attributes:
        answered: counted requests that have ended, well or not.
        failed: those of them that did not end well.
        started: ``time.perf_counter()`` when the first counted request began, 0.0 before.
    """

    answered: int
    failed: int
    started: float


class Board:
    """Hands out requests, so that the number in flight is the same throughout the window.

    A window begins with ``lead`` requests that are not counted and, once all counted ones are
    handed out, goes on with uncounted ones until the last counted one is answered. So the server
    is as busy for the first and the last counted request as for those between, and a short window
    measures what a long one does.
    """

    def __init__(self, context: SpawnContext):
        self._lock = context.Lock()
        self._cells = context.RawArray("d", 9)

    def open(self, limit: int, lead: int = 0, seconds: float = 0.0) -> None:
        """Start a window of ``limit`` requests, or of ``seconds`` where that is above 0."""
        with self._lock:
            for cell in range(len(self._cells)):
                self._cells[cell] = 0.0
            self._cells[_LIMIT] = float("inf") if seconds > 0 else float(limit)
            self._cells[_LEAD] = float(lead)
            self._cells[_SECONDS] = seconds

    def take(self, now: float) -> int:
        """The number of the next counted request (from 0), ``FILL`` or ``END``.

        Args:
            now: ``time.perf_counter()``, a clock that all processes of a machine share.
        """
        c = self._cells
        with self._lock:
            if c[_STOP]:
                return END
            if c[_FILLED] < c[_LEAD]:
                c[_FILLED] += 1
                return FILL
            late = c[_SECONDS] > 0 and c[_COUNTED] > 0 and now - c[_STARTED] >= c[_SECONDS]
            if c[_COUNTED] < c[_LIMIT] and not late:
                if c[_COUNTED] == 0:
                    c[_STARTED] = now
                c[_COUNTED] += 1
                return int(c[_COUNTED]) - 1
            return END if c[_ANSWERED] >= c[_COUNTED] else FILL

    def begin(self, due: float) -> None:
        """Note when a counted request of an open loop is due; the first one begins the window."""
        with self._lock:
            self._cells[_COUNTED] += 1
            if not self._cells[_STARTED] or due < self._cells[_STARTED]:
                self._cells[_STARTED] = due

    def is_stopped(self) -> bool:
        """Whether the window was ended early."""
        return bool(self._cells[_STOP])

    def answered(self, ok: bool) -> None:
        """Note that one counted request has ended."""
        with self._lock:
            self._cells[_ANSWERED] += 1
            if not ok:
                self._cells[_FAILED] += 1

    def stop(self) -> None:
        """End the window early; requests in flight still end."""
        with self._lock:
            self._cells[_STOP] = 1.0

    def progress(self) -> Progress:
        with self._lock:
            c = self._cells
            return Progress(int(c[_ANSWERED]), int(c[_FAILED]), c[_STARTED])
