"""The table of tasks: complete, and every door refuses a task that is not in it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from handlers.base import Handler
from handlers.errors import KitError
from repack import pipeline
from repack.options import SHIPPED, Options, SourceOptions
from repack.tasks import TASKS, named
from repack.tasks.base import Task
from repack.tolerances import TOLERANCES
from tests.support import classifiers, made
from tests.support.loading import model


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_all_of_itself(name: str) -> None:
    task = TASKS[name]
    assert isinstance(task, Task)
    assert task.name == name
    assert task.title.startswith("a")
    module, _, attribute = task.handler.partition(":")
    assert issubclass(getattr(import_module(module), attribute), Handler)
    for precision in TOLERANCES:
        assert all(isinstance(limit, dict) for limit in task.report().limits(precision).values())


def test_an_unknown_task_is_one_line_that_lists_what_there_is() -> None:
    for ask in (
        lambda: named("magic"),
        lambda: pipeline.load(Options(SourceOptions(made.tiny_onnx()), task="magic")),
    ):
        with pytest.raises(KitError) as refused:
            ask()
        assert str(refused.value) == f"no task 'magic'; there is {', '.join(TASKS)}"


@pytest.mark.parametrize(
    ("task", "path", "words"),
    [
        (
            "detection",
            made.tiny_onnx,
            "which is no layout of --task detection that the kit knows (anchor-free",
        ),
        ("segmentation", made.tiny_onnx, "says nothing of volumes: add --volumes YAML"),
        ("classification", made.tiny_onnx, "expected one output [2, classes]"),
        ("classification", lambda: SHIPPED, "yolov5n is made for detection: leave --task and"),
        ("segmentation", lambda: SHIPPED, "says nothing of volumes: add --volumes YAML"),
    ],
)
def test_a_model_of_another_task_is_one_line(task: str, path: object, words: str) -> None:
    assert callable(path)
    with pytest.raises(KitError) as refused:
        model(path(), task)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_any_model_can_be_served_as_raw_tensors(tmp_path: Path) -> None:
    shapes = {"images": ("batch", 3, 64, 64)}
    found = model(SHIPPED, "tensors", input_shapes=shapes)
    assert (found.task, found.settings, found.output) == ("tensors", {}, "tensors")
    assert [s.shape for s in found.inputs] == [("batch", 3, 64, 64)]
    (answer,) = found.ask(found.random_inputs(1, batch=2)).values()
    assert answer.shape[:1] == (2,)
    assert model(classifiers.resnet_onnx(), "tensors").task == "tensors"
    assert model(classifiers.resnet_onnx(), "classification").task == "classification"
