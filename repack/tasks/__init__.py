"""The tasks: one table. What knows a task by its name, but for its own folder, reads it."""

from __future__ import annotations

from handlers.errors import KitError
from repack.tasks.base import Task

PICTURES = {"max_request_mb": "64"}
"""A picture of 50 million pixels as PNG mostly has less, with its base64 as JSON too."""

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "classification",
            "a classifier",
            "handlers.classification:ClassificationHandler",
            names_causes=True,
            labelled=True,
            takes_pictures=True,
            server=PICTURES,
        ),
        Task(
            "detection",
            "a detector",
            "handlers.detection:DetectionHandler",
            labelled=True,
            takes_pictures=True,
            server=PICTURES,
        ),
        Task(
            "instances",
            "an instance segmentation net",
            "handlers.instances:InstancesHandler",
            labelled=True,
            takes_pictures=True,
            server=PICTURES,
        ),
        Task(
            "oriented",
            "a detector of boxes at an angle",
            "handlers.oriented:OrientedHandler",
            labelled=True,
            takes_pictures=True,
            server=PICTURES,
        ),
        Task(
            "pose",
            "a pose estimator",
            "handlers.pose:PoseHandler",
            labelled=True,
            takes_pictures=True,
            server=PICTURES,
        ),
        Task(
            "segmentation",
            "a segmentation net",
            "handlers.segmentation:SegmentationHandler",
            names_causes=True,
            one_at_a_time=True,
            settles=True,
            # A 512x512x500 scan of 16-bit values has 250 MiB, and minutes are usual on a CPU.
            server={"max_request_mb": "512", "response_timeout": "900"},
        ),
        Task(
            "semantic",
            "a semantic segmentation net",
            "handlers.semantic:SemanticHandler",
            names_causes=True,
            labelled=True,
            takes_pictures=True,
            server=PICTURES,
        ),
        Task(
            "tensors",
            "a model of raw tensors",
            "handlers.tensors:TensorHandler",
            metric=False,
            batches=False,
        ),
    )
}


def named(name: str) -> Task:
    """The task of this name.

    Raises:
        KitError: there is none; the line lists what there is.
    """
    if name not in TASKS:
        raise KitError(f"no task {name!r}; there is {', '.join(TASKS)}")
    return TASKS[name]
