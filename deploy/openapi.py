"""The OpenAPI description of the models that a server of the kit serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.torchserve.guard.http import READER
from handlers.passport import Passport
from repack.tasks import TASKS
from repack.tasks.schemas import BYTES, JSON, TEXT, Schema, record

ERROR = {"$ref": "#/components/schemas/Error"}
ERRORS = {
    400: "not what it should be: empty, truncated, damaged; or no valid token, where one is wanted",
    404: "no such model",
    408: "the request came too slowly",
    413: "too large: the body, what it claims to hold, or the answer",
    415: "a format that is not taken",
    422: "readable, but of a shape, type or value that the model does not take",
    500: "a fault of the kit: the worker's log has it",
    503: "the queue is full, or no worker is ready: ask again later",
    507: "out of memory for this batch",
}
ANY: dict[str, Schema] = {BYTES: {}}
ANY_ANSWER: dict[str, Schema] = {"*/*": {}}


def path_item(passport: Passport) -> dict[str, Any]:
    """How one model is asked, and what it answers."""
    task = TASKS.get(passport.task)
    # Of another's handler, the task's name says nothing about its answers.
    if task is None or passport.handler != task.handler:
        return unknown_item(passport.name, passport.version, passport.task)
    if (answers := task.answers()) is None:
        return _item(passport.name, passport.version, passport.task, task.title, ANY, ANY_ANSWER)
    taken, given = answers.taken(passport), answers.given(passport)
    item = _item(passport.name, passport.version, passport.task, task.title, taken, given)
    if READER in passport.files and hasattr(answers, "parameters"):
        item["post"]["parameters"] = [
            {"name": name, "in": "query", "schema": schema, "explode": False}
            for name, schema in answers.parameters(passport).items()
        ]
    return item


def unknown_item(name: str, version: str, task: str) -> dict[str, Any]:
    """The same of a model whose answers only its own handler knows."""
    return _item(name, version, task, "a model with a handler of its own", ANY, ANY_ANSWER)


def _item(
    name: str,
    version: str,
    task: str,
    title: str,
    taken: Mapping[str, Schema],
    given: Mapping[str, Schema],
) -> dict[str, Any]:
    return {
        "post": {
            "summary": f"{title}, version {version}",
            "description": "PUT does the same. A body may be compressed (Content-Encoding: gzip)."
            " Accept chooses among the answer's media types.",
            "operationId": f"predict_{name}",
            "x-task": task,
            "requestBody": {"required": True, "content": _content(taken)},
            "responses": {
                "200": {"description": "the answer", "content": _content(given)},
                **{str(status): {"$ref": f"#/components/responses/{status}"} for status in ERRORS},
            },
        }
    }


def document(paths: Mapping[str, Mapping[str, Any]], tokens: bool) -> dict[str, Any]:
    """The whole description.

    Args:
        paths: model -> its ``path_item``.
        tokens: whether callers need one.
    """
    responses = {
        str(status): {"description": why, "content": {JSON: {"schema": ERROR}}}
        for status, why in ERRORS.items()
    }
    components: dict[str, Any] = {
        "responses": responses,
        "schemas": {"Error": record(code={"type": "integer"}, type=TEXT, message=TEXT)},
    }
    secured: dict[str, Any] = {}
    if tokens:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        secured = {"security": [{"token": []}]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "torchserve-repack", "version": "1"},
        "paths": {f"/predictions/{name}": item for name, item in paths.items()},
        "components": components,
        **secured,
    }


def _content(schemas: Mapping[str, Schema]) -> dict[str, Any]:
    return {kind: {"schema": schema} if schema else {} for kind, schema in schemas.items()}
