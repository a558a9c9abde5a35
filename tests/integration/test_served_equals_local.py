"""A served answer equals the local one: the same boxes, whatever way the picture came."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from handlers.context import LocalContext
from handlers.entry import Entry
from qpstest import grpc_api
from repack import archive
from tests.support import made
from tests.support.bench import Bench, Reply, bench, together
from tests.support.bodies import form

PHOTOGRAPHS = made.ROOT.parent / "shared" / "images"
PICTURES = sorted(made.PICTURES.glob("*.jpg"))
if PHOTOGRAPHS.is_dir():
    PICTURES += sorted(PHOTOGRAPHS.glob("*.jpg"))

Answer = dict[str, Any]


@dataclass(frozen=True)
class Local:
    """The archive's own handler in this process."""

    entry: Entry
    folder: Path

    def answer(self, picture: bytes, **headers: str) -> bytes:
        context = LocalContext(self.folder, headers=headers)
        (body,) = self.entry.handle([{"body": picture}], context)
        assert context.statuses == [200]
        return body


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Local:
    folder = tmp_path_factory.mktemp("local")
    archive.unpack(made.detector(), folder)
    entry = Entry()
    entry.initialize(LocalContext(folder))
    return Local(entry, folder)


@pytest.fixture(scope="module")
def served(local: Local) -> Iterator[Bench]:
    picture = PICTURES[0].read_bytes()
    values = {"batch_size": 4, "max_batch_delay": 100, "queue": 100}
    with bench({"fd1": made.detector()}, ("fd1", picture), **values) as found:
        yield found


def same(one: bytes | Answer, other: bytes | Answer) -> int:
    """Compares two answers; returns how many boxes they hold."""
    first, second = (x if isinstance(x, dict) else json.loads(x) for x in (one, other))
    assert first["image"] == second["image"]
    assert first["runtime"] == second["runtime"]
    assert len(first["detections"]) == len(second["detections"])
    for a, b in zip(first["detections"], second["detections"], strict=True):
        assert (a["class"], a["class_id"]) == (b["class"], b["class_id"])
        np.testing.assert_allclose(a["box"], b["box"], atol=0.5, rtol=0)
        assert a["confidence"] == pytest.approx(b["confidence"], abs=1e-3)
    return len(first["detections"])


def good(reply: Reply) -> bytes:
    assert (reply.status, reply.media_type) == (200, "application/json"), reply.body
    return reply.body


@pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.name)
def test_raw_bytes(served: Bench, local: Local, picture: Path) -> None:
    data = picture.read_bytes()
    boxes = same(good(served.ask(data)), local.answer(data))
    assert boxes > 0 or picture.parent == PHOTOGRAPHS
    shown = ImageOps.exif_transpose(Image.open(picture))
    answer = json.loads(local.answer(data))
    assert (answer["image"]["width"], answer["image"]["height"]) == shown.size


@pytest.mark.parametrize("picture", PICTURES[:3], ids=lambda p: p.name)
def test_json_and_multipart(served: Bench, local: Local, picture: Path) -> None:
    data = picture.read_bytes()
    expected = local.answer(data)
    body = json.dumps({"data": base64.b64encode(data).decode()}).encode()
    assert same(good(served.ask(body, Content_Type="application/json")), expected) > 0
    body, kind = form(("data", picture.name, data))
    assert same(good(served.ask(body, Content_Type=kind)), expected) > 0


def test_grpc(served: Bench, local: Local) -> None:
    host, port = served.server.settings.ports["gRPC predictions"]
    bodies = [p.read_bytes() for p in PICTURES]
    target = grpc_api.GrpcTarget(f"{host}:{port}", "fd1", bodies, timeout=60)
    session = target.sessions()()
    try:
        for number, body in enumerate(bodies):
            reply = session.call(number)
            assert not reply.kind, reply.message
            same(reply.answer, local.answer(body))
    finally:
        session.close()


@pytest.mark.parametrize("picture", PICTURES[:2] + PICTURES[-1:], ids=lambda p: p.name)
def test_the_picture_with_boxes_drawn(served: Bench, local: Local, picture: Path) -> None:
    data = picture.read_bytes()
    reply = served.ask(data, Accept="image/jpeg")
    assert (reply.status, reply.media_type) == (200, "image/jpeg")
    drawn = Image.open(io.BytesIO(reply.body))
    plain = ImageOps.exif_transpose(Image.open(picture))
    assert (drawn.format, drawn.size) == ("JPEG", plain.size)
    here = Image.open(io.BytesIO(local.answer(data, accept="image/jpeg")))
    differs = np.abs(np.asarray(drawn, int) - np.asarray(here, int))
    assert np.mean(differs) < 1
    if json.loads(local.answer(data))["detections"]:
        assert np.abs(np.asarray(drawn, int) - np.asarray(plain.convert("RGB"), int)).max() > 100


def test_each_client_of_a_batch_gets_its_own_answer(served: Bench, local: Local) -> None:
    """Different pictures at once, several times over, in other orders."""
    bodies = {p.name: p.read_bytes() for p in PICTURES}
    expected = {name: json.loads(local.answer(body)) for name, body in bodies.items()}
    assert len({json.dumps(e["detections"]) for e in expected.values()}) == len(bodies)
    for turn in range(4):
        names = list(np.random.default_rng(turn).permutation(sorted(bodies)))
        replies = together([lambda name=name: served.ask(bodies[name]) for name in names])  # type: ignore[misc]
        for name, reply in zip(names, replies, strict=True):
            same(good(reply), expected[name])
