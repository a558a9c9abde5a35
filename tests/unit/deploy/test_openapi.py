"""What OpenAPI says of a model: its own types, shapes and classes; of others nothing."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from deploy.openapi import ERRORS, document, path_item
from deploy.torchserve.guard.http import READER
from handlers import errors
from handlers.passport import TensorSpec
from repack.tasks import TASKS
from repack.tasks.base import Task
from tests.support.archives import RECORD

TENSORS = replace(
    RECORD,
    inputs=(
        TensorSpec("x", "float32", ("batch", 2), range=(1.5, 3.0)),
        TensorSpec("ids", "int64", (1,), values=(8000, 16000)),
        TensorSpec("on", "bool", ()),
    ),
    outputs=(TensorSpec("y", "float32", ("batch", 1)),),
)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_says_its_requests_and_answers(task: Task) -> None:
    assert task.answers() is not None


def test_raw_tensors_have_their_own_types_and_shapes() -> None:
    post = path_item(TENSORS)["post"]
    taken = post["requestBody"]["content"]["application/json"]["schema"]
    x, ids, on = taken["oneOf"][0]["properties"]["inputs"]["properties"].values()
    value = {"type": "number", "minimum": 1.5, "maximum": 3.0}
    rows = {"type": "array", "items": value, "minItems": 2, "maxItems": 2}
    assert x == {
        "type": "array", "items": rows, "minItems": 1, "description": "float32 [batch, 2]",
    }  # fmt: skip
    assert ids["items"] == {"type": "integer", "enum": [8000, 16000]}
    assert on["type"] == "boolean"
    assert taken["examples"] == [{"inputs": {"x": [[1.5, 1.5]], "ids": [8000], "on": False}}]
    answers = post["responses"]["200"]["content"]["application/json"]["schema"]["oneOf"]
    assert list(answers[0]["properties"]["outputs"]["properties"]) == ["y"]


def test_a_classifiers_answer_may_have_as_many_classes_as_a_request_asks_for() -> None:
    record = replace(
        RECORD, task="classification", labels=("a", "b", "c"), settings={"top_k": 1},
        handler=TASKS["classification"].handler,
    )  # fmt: skip
    answers = path_item(record)["post"]["responses"]["200"]["content"]["application/json"]
    assert answers["schema"]["properties"]["classes"]["maxItems"] == 3


def settings_of(task: Task, head: str = "scored") -> dict[str, dict[str, Any]]:
    """The schemas of a request's own settings."""
    settings = {
        "top_k": 1, "confidence": 0.3, "iou": 0.5, "max_detections": 20,
        "head": {"name": head, "classes": 2},
    }  # fmt: skip
    record = replace(
        RECORD, task=task.name, labels=("a", "b"), settings=settings, handler=task.handler,
        files={READER: ""}, outputs=(),
    )  # fmt: skip
    told = path_item(record)["post"].get("parameters", [])
    assert all(p["in"] == "query" and not p["explode"] for p in told)
    assert "parameters" not in path_item(replace(record, files={}))["post"]
    return {p["name"]: p["schema"] for p in told}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_requests_own_settings_are_those_that_the_handler_takes(task: Task) -> None:
    module, _, name = task.handler.partition(":")
    handler = getattr(import_module(module), name)
    assert set(settings_of(task)) == set(handler.parameters)


def test_settings_have_the_ranges_that_were_packed() -> None:
    assert settings_of(TASKS["classification"])["top_k"] == {
        "type": "integer", "minimum": 1, "maximum": 2, "default": 1,
    }  # fmt: skip
    found = settings_of(TASKS["detection"])
    assert found["conf"] == {"type": "number", "minimum": 0.3, "maximum": 1, "default": 0.3}
    assert found["iou"] == {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5}
    assert found["max_det"]["maximum"] == 20
    number = {"type": "integer", "minimum": 0, "maximum": 1}
    assert found["classes"]["items"] == {"anyOf": [{"enum": ["a", "b"]}, number]}
    assert "iou" not in settings_of(TASKS["detection"], "ranked")


def test_of_a_handler_that_is_not_the_kits_nothing_is_claimed() -> None:
    for foreign in (replace(TENSORS, handler="given:Handler"), replace(TENSORS, task="embedding")):
        post = path_item(foreign)["post"]
        assert post["requestBody"]["content"] == {"application/octet-stream": {}}
        assert post["responses"]["200"]["content"] == {"*/*": {}}


def test_every_status_of_the_kits_errors_is_described() -> None:
    statuses = {
        kind.status
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ItemError)
    }
    assert statuses <= set(ERRORS)
    described = document({"m": path_item(TENSORS)}, tokens=False)
    responses = described["paths"]["/predictions/m"]["post"]["responses"]
    for status in map(str, ERRORS):
        assert responses[status] == {"$ref": f"#/components/responses/{status}"}
        assert status in described["components"]["responses"]


def test_a_task_without_answers_is_told_from_one_that_lacks_a_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Task("embedding", "a net", "handlers.x:X").answers() is None
    assert Task("embedding", "a net", "handlers.x:X", folder="tests.support").answers() is None
    monkeypatch.delitem(sys.modules, "repack.tasks.pose.answers", raising=False)
    monkeypatch.setitem(sys.modules, "handlers.pose", None)
    with pytest.raises(ModuleNotFoundError, match=r"handlers\.pose"):
        TASKS["pose"].answers()
