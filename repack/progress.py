"""Long steps show that they are alive."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from repack import interrupts

BEAT_S = 10.0
"""A step that takes longer says so every so many seconds."""


def say(text: str) -> None:
    """One line for the person at the screen; standard output stays free for results."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Names a step, says while it still runs, and says how long it took."""
    begin = time.monotonic()
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_S):
            say(f"    ... {text}: {time.monotonic() - begin:.0f} s so far")

    say(f"  {text}")
    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        interrupts.check()
    say(f"    done in {time.monotonic() - begin:.1f} s")
