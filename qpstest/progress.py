"""One line on the screen while a window runs."""

from __future__ import annotations

import sys
import time

from qpstest.board import Progress

LINE_EVERY = 5.0
"""Seconds between lines where the screen cannot be redrawn (a log file)."""


class ProgressLine:
    """Shows one window's progress on the standard error stream.

    Args:
        label: what is being measured.
        requests: how many there will be, or 0 where ``seconds`` decides.
        seconds: how long it will last, or 0.
    """

    def __init__(self, label: str, requests: int, seconds: float):
        self._label = label
        self._requests = requests
        self._seconds = seconds
        self._redraw = sys.stderr.isatty()
        self._last = time.perf_counter()
        self._width = 0

    def show(self, progress: Progress) -> None:
        """Redraw, or add a line where enough time has passed since the last."""
        now = time.perf_counter()
        if not self._redraw and now - self._last < LINE_EVERY:
            return
        self._last = now
        spent = now - progress.started if progress.started else 0.0
        goal = f"{spent:.0f}/{self._seconds:g} s" if self._seconds else f"of {self._requests}"
        text = f"{self._label}: {progress.answered} {goal}"
        if spent > 0:
            text += f", {(progress.answered - progress.failed) / spent:.1f}/s"
        if progress.failed:
            text += f", {progress.failed} failed"
        self._write(text)

    def clear(self) -> None:
        """Leave the line empty for what comes next."""
        if self._redraw and self._width:
            sys.stderr.write(f"\r{' ' * self._width}\r")
            sys.stderr.flush()

    def _write(self, text: str) -> None:
        if self._redraw:
            sys.stderr.write(f"\r{text:<{self._width}}")
            self._width = max(self._width, len(text))
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
