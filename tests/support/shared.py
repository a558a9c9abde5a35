"""What all processes of one test run share: a folder, files that one of them makes, and turns."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec

SHARED = "KIT_TESTS_SHARED"
"""Names the folder that all processes of one run share; tests/conftest.py sets it."""

P = ParamSpec("P")


@cache
def folder() -> Path:
    """The run's own folder, removed when it ends."""
    if given := os.environ.get(SHARED):
        return Path(given)
    made = Path(tempfile.mkdtemp(prefix="kit-tests-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def once(make: Callable[P, Path]) -> Callable[P, Path]:
    """Of all processes of a run, the first that asks makes the file; the others wait for it."""

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Path:
        name = "-".join(map(str, (make.__module__, make.__qualname__, *args, *kwargs.items())))
        done = folder() / f".{name}.done"
        with (folder() / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                done.write_text(str(make(*args, **kwargs)))
        return Path(done.read_text())

    return made


@contextmanager
def turn(alone: bool) -> Iterator[None]:
    """Waits until this test may run: beside others, or alone in the whole run.

    Everyone enters by a door and is then in the room, all but one who is alone share it. Who wants
    to be alone holds the door while the others leave, so that none comes in before.
    """
    with (folder() / ".door").open("w") as door, (folder() / ".room").open("w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
