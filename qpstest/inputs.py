"""The requests' bodies, read into memory before anything is measured."""

from __future__ import annotations

from pathlib import Path

from handlers.errors import KitError
from qpstest import tasks
from repack.tasks.load_test import LoadTest

Named = list[tuple[str, bytes]]


def read(path: Path, task: LoadTest) -> Named:
    """(name, bytes) of a file, or of a folder's files in the order of their names.

    A folder that holds the task's inputs gives those only; hidden files are passed over.

    Raises:
        KitError: nothing there.
    """
    if not path.exists():
        raise KitError(f"--input {path}: no such file or folder")
    files = tasks.visible(path)
    if not files:
        raise KitError(f"--input {path}: the folder holds no files; at least one was expected")
    known = [f for f in files if path.is_dir() and task.suffixes and task.takes(f)]
    return [_load(f) for f in known or files]


def whole(named: Named, task: LoadTest) -> tuple[Named, list[str]]:
    """The inputs that the task can read, and a line about each that it cannot.

    Where none can be read, all are kept: what is sent then is what was asked for.
    """
    good, lines = [], []
    for name, data in named:
        wrong = task.what_is_wrong_with_input(data)
        if wrong is None:
            good.append((name, data))
        else:
            lines.append(f"{name}: {wrong}")
    return (good, lines) if good else (named, lines)


def _load(path: Path) -> tuple[str, bytes]:
    try:
        return path.name, path.read_bytes()
    except OSError as e:
        raise KitError(f"--input {path} cannot be read: {e.strerror}") from None
