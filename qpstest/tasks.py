"""Which task's hooks a measurement uses: the archive's passport or the server says, else the
names of the input files."""

from __future__ import annotations

import contextlib
import json
import zipfile
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from repack.tasks.load_test import LoadTest

HOOKS = {
    "detection": "repack.tasks.detection.load_test:DetectionLoadTest",
    "classification": "repack.tasks.classification.load_test:ClassificationLoadTest",
    "segmentation": "repack.tasks.segmentation.load_test:SegmentationLoadTest",
}
"""Each task's hooks; the first that takes a file decides where nothing names the task."""
DAMAGE = (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile)


@cache
def hooks(task: str) -> LoadTest:
    """A task's hooks; those of any model that answers JSON for a task without hooks."""
    if task not in HOOKS:
        return LoadTest()
    module, _, name = HOOKS[task].partition(":")
    found: LoadTest = getattr(import_module(module), name)()
    return found


def choose(task: str | None, path: Path) -> LoadTest:
    """The hooks of the named task, or those of the task whose input the file is.

    A folder counts as its first file that is some task's input.
    """
    if task in HOOKS:
        return hooks(task)
    for file in visible(path):
        for name in HOOKS:
            if hooks(name).takes(file):
                return hooks(name)
    return LoadTest()


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
