"""An archive hosted in this process answers as TorchServe does, whatever way a request comes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from deploy.hosting.model import Model, Request
from tests.support import made
from tests.support.bench import Bench, bench
from tests.support.bodies import form

PICTURE = sorted(made.PICTURES.glob("*.jpg"))[0].read_bytes()
TEXT = base64.b64encode(PICTURE)
DATA = json.dumps({"data": TEXT.decode()}).encode()
MULTIPART, KIND = form(("data", "a.jpg", PICTURE))
TWO, _ = form(("data", "a.jpg", PICTURE), ("more", "b.jpg", PICTURE))
JSON, WEB = "application/json", "application/x-www-form-urlencoded"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Bench, Model]]:
    hosted = Model(made.detector(), threads=1)
    with bench({"fd1": made.detector()}, ("fd1", PICTURE)) as served:
        yield served, hosted
    hosted.close()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (PICTURE, {}),
        (PICTURE, {"Content-Type": "image/jpeg", "Accept": "image/jpeg"}),
        (b"no picture", {"Content-Type": "application/octet-stream"}),
        (DATA, {"Content-Type": JSON}),
        (DATA, {}),
        (b"[1, 2]", {"Content-Type": JSON}),
        (b"{broken", {"Content-Type": JSON}),
        (TEXT, {"Content-Type": "text/plain"}),
        (b"\xff\xfe", {"Content-Type": "text/plain"}),
        (MULTIPART, {"Content-Type": KIND}),
        (TWO, {"Content-Type": KIND}),
        (b"data=" + TEXT.replace(b"+", b"%2B"), {"Content-Type": WEB}),
        (b"a=1&b=2", {"Content-Type": WEB}),
        (PICTURE, {"Content-Encoding": "gzip"}),
        (PICTURE, {"X-Parameters": "conf=0.9&classes=0&iou=0.3"}),
        (PICTURE, {"X-Parameters": "conf=0.1"}),
        (PICTURE, {"X-Parameters": "top=1"}),
    ],
)  # fmt: skip
def test_status_type_and_bytes(
    both: tuple[Bench, Model], body: bytes, headers: dict[str, str]
) -> None:
    served, hosted = both
    reply = served.ask(body, **{k.replace("-", "_"): v for k, v in headers.items()})
    (answer,) = hosted.answer([Request(body, headers)])
    assert (answer.status, answer.media_type) == (reply.status, reply.media_type)
    assert answer.body == reply.body
