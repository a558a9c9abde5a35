"""The kit's server asked by the protocol's own clients, tritonclient and kserve."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from deploy.torchserve import server as servers
from deploy.torchserve.client import Client
from tests.support import environments, hosts, kserve_client, made, v2_client
from tests.support.archives import write_archive
from tests.support.servers import free_ports, serving, settings_for

pytestmark = pytest.mark.slow
PICTURE = sorted(made.PICTURES.glob("*.jpg"))[0]
BODY = PICTURE.read_bytes()
PROTOCOLS = ("http", "grpc")


@dataclass(frozen=True)
class Served:
    """The kit's server of the detector and a model of raw tensors."""

    url: str
    grpc: str
    asker: v2_client.Asker
    client: Client

    def plain(self, model: str, body: bytes, **headers: str) -> bytes:
        answer = requests.post(f"{self.url}/predictions/{model}", body, headers=headers, timeout=60)
        assert answer.status_code == 200
        return answer.content


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    room = tmp_path_factory.mktemp("v2")
    (room / "store").mkdir()
    for path in (made.detector(), made.tensors()):
        (room / "store" / path.name).write_bytes(path.read_bytes())
    _, port = free_ports()
    settings = settings_for(room / "store", room / "run", name="fd1", v2_grpc_port=port)
    urls = {"http": f"127.0.0.1:{settings.port}", "grpc": f"127.0.0.1:{port}"}
    asker = hosts.asker(urls)
    with serving(settings) as server:
        server.wait_ready("tiny")
        yield Served(f"http://{urls['http']}", urls["grpc"], asker, server.client)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tritonclient_knows_what_is_served(served: Served, protocol: str) -> None:
    told = served.asker.run(protocol, {"do": "about", "model": "tiny"})
    assert told == {
        "live": True, "ready": True, "model ready": True, "versions": ["1.0"],
        "inputs": [["x", "FP32", [-1, 3, 8, 8]]], "outputs": [["y", "FP32", [-1, 4, 8, 8]]],
    }  # fmt: skip
    missing = served.asker.run(protocol, {"do": "about", "model": "nope"})
    assert "no model 'nope'; served: fd1, tiny" in missing["error"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tritonclient_is_answered_as_predictions_are(served: Served, protocol: str) -> None:
    answered = served.asker.ask(protocol, "fd1", [BODY, b"nope", BODY])
    assert answered.statuses == [200, 400, 200]
    assert answered.bodies[0] == answered.bodies[2] == served.plain("fd1", BODY)
    assert "4 bytes that are no picture" in json.loads(answered.bodies[1])["message"]
    drawn = served.asker.ask(protocol, "fd1", [BODY], accept="image/jpeg")
    assert drawn.headers[0]["content-type"] == "image/jpeg"
    assert drawn.bodies == [served.plain("fd1", BODY, Accept="image/jpeg")]
    sure = served.asker.ask(protocol, "fd1", [BODY], conf="0.9")
    assert sure.bodies == [served.plain("fd1", BODY, **{"X-Parameters": "conf=0.9"})]
    assert sure.bodies != answered.bodies[:1]


@pytest.mark.parametrize(("protocol", "binary"), [("http", True), ("http", False), ("grpc", True)])
def test_tritonclient_sends_tensors(served: Served, protocol: str, binary: bool) -> None:
    x = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    out = io.BytesIO()
    np.save(out, x)
    plain = np.load(
        io.BytesIO(served.plain("tiny", out.getvalue(), Accept="application/x-npz"))
    )["y"]  # fmt: skip
    asked = {"do": "tensors", "model": "tiny", "values": x.tolist(), "binary": binary}
    told = served.asker.run(protocol, asked)
    np.testing.assert_array_equal(np.array(told["y"], np.float32), plain)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"datatype": "FP64"}, "FP64 [1, 3, 8, 8] came; expected FP32 [-1, 3, 8, 8]"),
        ({"shape": [1, 8, 8, 3]}, "FP32 [1, 8, 8, 3] came; expected FP32 [-1, 3, 8, 8]"),
    ],
)
def test_another_type_or_shape_is_a_400(
    served: Served, protocol: str, changed: dict[str, Any], words: str
) -> None:
    values = np.zeros((1, 3, 8, 8)).tolist()
    asked = {"do": "tensors", "model": "tiny", "values": values, "binary": True, **changed}
    error = served.asker.run(protocol, asked)["error"]
    assert words in error
    assert {"http": "[400]", "grpc": "INVALID_ARGUMENT"}[protocol] in error


def test_kserves_own_clients(served: Served) -> None:
    python = environments.made("kserve", kserve_client.PACKAGES) / "bin" / "python"
    told = kserve_client.asked(python, served.url, served.grpc, "fd1", PICTURE)
    plain = served.plain("fd1", BODY).decode()
    assert told.pop("v1") == {"predictions": [json.loads(plain)]}
    answers = {told.pop(way) for way in ("v2 binary False", "v2 binary True", "grpc")}
    assert answers == {plain}
    assert set(told.values()) == {True}


def test_readiness_is_the_workers(served: Served) -> None:
    ready = f"{served.url}/v2/models/tiny/ready"
    assert requests.get(ready, timeout=9).status_code == 200
    served.client.set_workers("tiny", 0)
    try:
        for _ in range(100):
            if requests.get(ready, timeout=9).status_code == 503:
                break
        assert requests.get(ready, timeout=9).json() == {"name": "tiny", "ready": False}
        assert requests.get(f"{served.url}/v2/health/ready", timeout=9).status_code == 200
        assert requests.get(f"{served.url}/v2/models/fd1/ready", timeout=9).status_code == 200
    finally:
        served.client.set_workers("tiny", 1)


def test_a_token_is_wanted_where_predictions_want_one(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "tiny.mar").write_bytes(made.tensors().read_bytes())
    settings = settings_for(tmp_path / "store", tmp_path / "run", name="tiny", tokens=1)
    x = {"name": "x", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0.5] * 192}
    with serving(settings) as server:
        url = f"http://127.0.0.1:{settings.port}/v2/models/tiny"
        assert requests.get(f"{url}/ready", timeout=9).status_code == 200
        refused = requests.post(f"{url}/infer", json={"inputs": [x]}, timeout=9)
        assert refused.status_code in (400, 401)
        assert "oken" in refused.json()["error"]
        key = {"Authorization": f"Bearer {server.client.key('inference')}"}
        good = requests.post(f"{url}/infer", json={"inputs": [x]}, headers=key, timeout=9)
        assert good.status_code == 200, good.text


SLOW = """
import pathlib, time
class Handler:
    def initialize(self, context):
        pass
    def handle(self, rows, context):
        for row in rows:
            pathlib.Path({folder!r}, bytes(row["body"]).decode()).touch()
        time.sleep(3)
        return [b'{{"done": 1}}' for _ in rows]
"""


def test_a_stop_answers_what_is_in_flight(tmp_path: Path) -> None:
    """Row 36, by both of the protocol's ways."""
    for name in ("store", "begun"):
        (tmp_path / name).mkdir()
    code = SLOW.format(folder=str(tmp_path / "begun"))
    write_archive(tmp_path / "store", "slow", code, task="detection")
    _, port = free_ports()
    settings = settings_for(
        tmp_path / "store", tmp_path / "run", name="slow", v2_grpc_port=port, workers=2
    )
    asker = hosts.asker({"http": f"127.0.0.1:{settings.port}", "grpc": f"127.0.0.1:{port}"})
    with serving(settings) as server, ThreadPoolExecutor() as pool:
        asked = [pool.submit(asker.ask, way, "slow", [way.encode()]) for way in PROTOCOLS]
        while len(list((tmp_path / "begun").iterdir())) < len(PROTOCOLS):
            time.sleep(0.05)
        assert servers.stop(server, 30)
        assert [each.result().bodies for each in asked] == [[b'{"done": 1}']] * 2
    assert (tmp_path / "run" / "logs" / "guard.log").read_text() == ""
