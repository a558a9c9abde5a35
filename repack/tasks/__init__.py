"""The tasks: one table. What knows a task by its name, but for its own folder, reads it."""

from __future__ import annotations

from handlers.errors import KitError
from repack.tasks.base import Task
from repack.tasks.classification import Classification
from repack.tasks.detection import Detection
from repack.tasks.segmentation import Segmentation
from repack.tasks.tensors import RawTensors

TASKS: dict[str, Task] = {
    task.name: task for task in (Classification(), Detection(), Segmentation(), RawTensors())
}


def named(name: str) -> Task:
    """The task of this name.

    Raises:
        KitError: there is none; the line lists what there is.
    """
    if name not in TASKS:
        raise KitError(f"no task {name!r}; there is {', '.join(TASKS)}")
    return TASKS[name]
