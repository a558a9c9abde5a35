"""Which task's hooks a measurement uses: the archive's passport or the server says, else the
names of the input files."""

from __future__ import annotations

import contextlib
import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from repack.tasks import TASKS
from repack.tasks.load_test import LoadTest

DAMAGE = (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile)


@cache
def hooks(task: str) -> LoadTest:
    """A task's hooks; those of any model that answers JSON for a task without hooks."""
    if task not in TASKS:
        return LoadTest()
    try:
        found: LoadTest = TASKS[task].part("load_test").HOOKS
    except ModuleNotFoundError as e:
        if not str(e.name).endswith("load_test"):
            raise
        return LoadTest()
    return found


def choose(task: str | None, path: Path) -> LoadTest:
    """The hooks of the named task, or those of the task whose input the file is.

    A folder counts as its first file that is some task's input. A task that takes any file is not
    told by its files.
    """
    if task is not None and hooks(task).suffixes:
        return hooks(task)
    for file in visible(path):
        fitting = [hooks(name) for name in TASKS if hooks(name).suffixes]
        fitting = [found for found in fitting if found.takes(file)]
        if fitting:
            return next((found for found in fitting if found.usual_one), fitting[0])
    return LoadTest() if task is None else hooks(task)


def visible(path: Path) -> list[Path]:
    """The file, or the folder's files in the order of their names; hidden ones are passed over."""
    if not path.is_dir():
        return [path]
    return sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))


def of_archive(path: Path) -> str | None:
    """The task that an archive's passport names; None where there is no archive to read."""
    with contextlib.suppress(*DAMAGE), zipfile.ZipFile(path) as archive:
        return str(json.loads(archive.read("passport.json"))["task"])
    return None


def described(description: Any) -> str | None:
    """The task in what a model's handler says of itself; None where it says none."""
    with contextlib.suppress(LookupError, TypeError):
        return str(description["model"]["task"])
    return None
