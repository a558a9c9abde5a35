"""How long, and in how much memory, a model may compute an answer while it is packed.

The code of a model cannot be stopped from Python: a graph whose loop never ends keeps its thread.
So the program is ended, as by any other mistake in what was given.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from handlers.memory import machine_memory, mib
from repack.progress import say

ANSWER_S = 900.0
"""Seconds: the longest that a server waits for a whole answer where nothing else is asked for."""

MEMORY = machine_memory() * 3 // 4
"""Bytes of resident memory of this process."""

LOOK_S = 0.2


@contextmanager
def answering(path: Path) -> Iterator[None]:
    """While the model of ``path`` answers; beyond either bound the program ends, in one line."""
    done = threading.Event()
    begin, process = time.monotonic(), psutil.Process()

    def watch() -> None:
        while not done.wait(LOOK_S):
            if time.monotonic() - begin > ANSWER_S:
                _end(
                    f"{path}: the model has not answered one input within {ANSWER_S:g} s: "
                    "it never ends, or is too slow to be served"
                )
            if (taken := process.memory_info().rss) > MEMORY:
                _end(
                    f"{path}: the model took {mib(taken)} of memory for one input; at most "
                    f"{mib(MEMORY)}, three quarters of this machine's: give smaller shapes by "
                    "--input-shape, or pack it on a larger machine"
                )

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _end(reason: str) -> None:
    say(f"error: {reason}")
    atexit._run_exitfuncs()  # temporary folders
    os._exit(1)
