"""What a real server says of itself, held against what it really takes and answers."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from tests.support import classifiers, environments, made, openapi_check
from tests.support.servers import serving, settings_for

pytestmark = pytest.mark.slow

PICTURE = sorted(made.PICTURES.glob("*.jpg"))[0].read_bytes()
JSON = "application/json"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    room = tmp_path_factory.mktemp("openapi")
    (room / "store").mkdir()
    for path in (made.detector(), made.tensors(), made.vessels(), classifiers.archive()):
        shutil.copy(path, room / "store" / path.name)
    settings = settings_for(room / "store", room / "run", name="fd1")
    with serving(settings) as server:
        for name in ("tiny", "vessels", "kinds"):
            server.wait_ready(name)
        yield f"http://127.0.0.1:{settings.port}"


@pytest.fixture(scope="module")
def document(url: str) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{url}/openapi.json", timeout=10).json()
    return found


def ask(url: str, model: str, body: bytes, kind: str, accept: str = JSON) -> requests.Response:
    headers = {"Content-Type": kind, "Accept": accept}
    return requests.post(f"{url}/predictions/{model}", body, headers=headers, timeout=120)


def example(model: str, room: Path) -> bytes:
    """A file that the model takes."""
    if model == "vessels":
        return made.vessels_scan(room, (64, 64, 64)).read_bytes()
    if model != "tiny":
        return PICTURE
    out = io.BytesIO()
    np.savez(out, x=np.ones((2, 3, 8, 8), np.float32))
    return out.getvalue()


def test_answers_and_errors_are_as_described(
    url: str, document: dict[str, Any], tmp_path: Path
) -> None:
    bodies = []
    for path, item in document["paths"].items():
        model = path.rpartition("/")[2]
        answer = ask(url, model, example(model, tmp_path), "application/octet-stream")
        assert answer.status_code == 200, answer.text
        where = ["paths", path, "post", "responses", "200", "content", JSON, "schema"]
        bodies.append([where, answer.json()])
        refused = ask(url, model, b"nothing of use", "application/octet-stream")
        assert str(refused.status_code) in item["post"]["responses"]
        bodies.append([["components", "schemas", "Error"], refused.json()])
    missing = ask(url, "nope", b"", "application/octet-stream")
    assert missing.status_code == 404
    bodies.append([["components", "schemas", "Error"], missing.json()])
    example_sent = ["paths", "/predictions/tiny", "post", "requestBody", "content", JSON, "schema"]
    found: Any = document
    for key in example_sent:
        found = found[key]
    bodies.append([example_sent, found["examples"][0]])
    assert len(bodies) == 2 * len(document["paths"]) + 2 == 10

    python = environments.made("openapi", openapi_check.PACKAGES) / "bin" / "python"
    assert openapi_check.complaints(python, document, bodies) == []
    spoilt = deepcopy(bodies)
    for _, value in spoilt:
        value.pop(sorted(value)[0])
    told = openapi_check.complaints(python, {**document, "paths": document["paths"]}, spoilt)
    assert len(told) >= len(bodies)
    assert openapi_check.complaints(python, {**document, "info": {}}, [])


def test_settings_are_taken_at_the_ends_of_their_ranges_and_not_beyond(
    url: str, document: dict[str, Any]
) -> None:
    asked = 0
    for path, item in document["paths"].items():
        for told in item["post"].get("parameters", ()):
            schema = told["schema"].get("items", told["schema"])
            name = schema["anyOf"][0]["enum"][-1] if "anyOf" in schema else None
            good = [name] if name else [schema["minimum"], schema["maximum"], schema["default"]]
            bad = ["no such"] if name else [schema["minimum"] - 1, schema["maximum"] + 1]
            for value in (*good, *bad):
                query = {told["name"]: value}
                answer = requests.post(f"{url}{path}", PICTURE, params=query, timeout=60)
                assert answer.status_code == (200 if value in good else 422), (query, answer.text)
            asked += 1
    assert asked == 5


def test_every_media_type_that_is_named_is_taken_and_given(
    url: str, document: dict[str, Any], tmp_path: Path
) -> None:
    for path, item in document["paths"].items():
        model = path.rpartition("/")[2]
        body = example(model, tmp_path)
        for kind in item["post"]["requestBody"]["content"]:
            sent = body
            if kind == "text/plain":
                sent = base64.b64encode(body)
            elif kind == JSON and model == "tiny":
                schema = item["post"]["requestBody"]["content"][JSON]["schema"]
                sent = json.dumps(schema["examples"][0]).encode()
            elif kind == JSON:
                sent = json.dumps({"data": base64.b64encode(body).decode()}).encode()
            answer = ask(url, model, sent, kind)
            assert answer.status_code == 200, (model, kind, answer.text)
        for kind in item["post"]["responses"]["200"]["content"]:
            answer = ask(url, model, body, "application/octet-stream", kind)
            if kind == "application/dicom":  # of a DICOM series only
                assert answer.status_code == 422
            else:
                assert answer.headers["content-type"].startswith(kind), (model, kind)
