"""The page on which a browser tries the models: asked as a user does, in a real one."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy.openapi import path_item
from deploy.torchserve.client import key_file
from tests.support import made
from tests.support.archives import RECORD
from tests.support.chromium import Chromium, required
from tests.support.guard_thread import staged
from tests.support.pages_fit import OVERLAPS, STICKING_OUT
from tests.support.servers import serving, settings_for

pytestmark = pytest.mark.browser

PICTURE = sorted(made.PICTURES.glob("*.jpg"))[0]
DETECTOR = replace(
    RECORD, name="fd1", task="detection", handler="handlers.detection:DetectionHandler",
    labels=("circle", "square"), settings={"max_detections": 9},
)  # fmt: skip
TOKEN = "a-secret"  # noqa: S105
UNLABELLED = """
[...document.querySelectorAll('select, input, textarea')].filter(e => !e.labels.length).length
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium(required()) as found:
        yield found


def press(browser: Chromium, token: str = "") -> None:
    browser.run(f"document.querySelector('#token').value = {json.dumps(token)}")
    browser.run("document.querySelector('#send').click()")
    browser.wait("/^(Answered|Refused)/.test(document.querySelector('#status').textContent)")


def text(browser: Chromium, selector: str) -> str:
    return str(browser.run(f"document.querySelector({json.dumps(selector)}).innerText"))


def complaints(browser: Chromium) -> list[str]:
    """What the browser logs beside refusals: violations of the policy, errors of scripts."""
    logged = [e for e in browser.events if e["method"] == "Log.entryAdded"]
    entries = [e["params"]["entry"] for e in logged]
    thrown = [str(e) for e in browser.events if e["method"] == "Runtime.exceptionThrown"]
    return thrown + [e["text"] for e in entries if "status of 40" not in e["text"]]


def test_a_picture_is_tried_with_a_token_and_drawn(browser: Chromium, tmp_path: Path) -> None:
    heard = []

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        heard.append((head.lower(), body))
        drawn = cv2.imencode(".jpg", np.zeros((30, 40, 3), np.uint8))[1].tobytes()
        status, kind = b"200 OK", b"image/jpeg"
        if b"authorization: bearer " + TOKEN.encode() not in head.lower():
            status, kind, drawn = b"400 Bad Request", b"application/json", b'{"message": "<b>no"}'
        told = b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s"
        writer.write(told % (status, kind, len(drawn), drawn))

    with staged(tmp_path, answer, paths={"fd1": path_item(DETECTOR)}, tokens=True) as url:
        browser.open(url, 400)
        browser.wait("document.querySelector('#models li')")
        assert "a detector, version 1.0" in text(browser, "#models")
        assert browser.run(UNLABELLED) == 0
        browser.choose("#file", PICTURE)
        press(browser)
        assert text(browser, "#status") == "Refused: 400"
        assert text(browser, "#shown") == "<b>no"
        press(browser, TOKEN)
        browser.wait("document.querySelector('#shown img').naturalWidth === 40")
        assert browser.run(OVERLAPS) == browser.run(STICKING_OUT) == []
        assert complaints(browser) == []
    head, body = heard[-1]
    assert head.startswith(b"post /predictions/fd1 http/1.1") and b"accept: image/jpeg" in head
    assert body == PICTURE.read_bytes()
    assert TOKEN not in str(browser.run("location.href + document.cookie + localStorage.length"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A real server's address, and its token."""
    room = tmp_path_factory.mktemp("try")
    (room / "store").mkdir()
    for path in (made.detector(), made.tensors(), made.vessels()):
        shutil.copy(path, room / "store" / path.name)
    settings = settings_for(room / "store", room / "run", name="fd1", tokens=1)
    with serving(settings) as server:
        for name in ("tiny", "vessels"):
            server.wait_ready(name)
        key = json.loads(key_file(settings).read_text())["inference"]["key"]
        yield f"http://127.0.0.1:{settings.port}", key


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_every_kind_of_model_is_tried_on_a_real_server(
    browser: Chromium, served: tuple[str, str], width: int, tmp_path: Path
) -> None:
    url, key = served
    browser.open(url, width)
    browser.wait("document.querySelectorAll('.state.good').length === 3", 60)
    browser.choose("#file", PICTURE)
    press(browser, key)
    browser.wait("document.querySelector('#shown img').naturalWidth === 640")
    browser.run("document.querySelector('#accept').value = 'application/json'")
    press(browser, key)
    browser.wait("document.querySelector('#shown pre')")
    assert json.loads(text(browser, "#shown pre"))["detections"]
    assert browser.run(OVERLAPS) == browser.run(STICKING_OUT) == []

    pick = "document.querySelector('#model').value = '{}';"
    pick += "document.querySelector('#model').dispatchEvent(new Event('change'))"
    browser.run(pick.format("tiny"))
    press(browser, key)  # the example that the description gives
    browser.wait("document.querySelector('#shown pre')")
    assert json.loads(text(browser, "#shown pre"))["outputs"]["y"]["shape"] == [1, 4, 8, 8]
    assert browser.run(OVERLAPS) == browser.run(STICKING_OUT) == []

    browser.run(pick.format("vessels"))
    browser.choose("#file", made.vessels_scan(tmp_path, (64, 64, 64)))
    press(browser, key)
    browser.wait("document.querySelector('#shown pre')")
    assert json.loads(text(browser, "#shown pre"))["volume"]["shape_zyx"] == [64, 64, 64]
    assert complaints(browser) == []
