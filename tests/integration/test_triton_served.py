"""Archives in a real Triton: the whole way, byte for byte the local handler's answers."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.hosting.model import Model, Request
from deploy.triton.__main__ import main
from repack import archive as archives
from tests.support import classifiers, hosts, made, triton, v2_client

pytestmark = pytest.mark.slow
PICTURES = [path.read_bytes() for path in sorted(made.PICTURES.glob("*.jpg"))[:3]]
PROTOCOLS = ("http", "grpc")


@dataclass(frozen=True)
class Served:
    """A Triton with the detector and a classifier, in batches of up to four."""

    triton: triton.Triton
    asker: v2_client.Asker


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("triton") / "models"
    for packed in (made.detector(), classifiers.archive()):
        flags = ["--repository", str(repository), "--instances", "1", "--batch-size", "4"]
        assert main([str(packed), *flags]) == 0
    with triton.serving(repository, triton.HANDLERS) as found:
        yield Served(found, hosts.asker(found.urls))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    found = {}
    for packed in (made.detector(), classifiers.archive()):
        folder = tmp_path_factory.mktemp("local")
        archives.unpack(packed, folder)
        found[packed.stem] = Model(folder)
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["fd1", "kinds"])
def test_its_answers_are_the_handlers_byte_for_byte(
    served: Served, local: dict[str, Model], name: str, protocol: str
) -> None:
    answered = served.asker.ask(protocol, name, PICTURES)
    want = local[name].answer([Request(picture) for picture in PICTURES])
    assert answered.statuses == [200] * len(PICTURES)
    assert answered.bodies == [a.body for a in want]
    assert answered.headers == [{"content-type": a.media_type, **a.headers} for a in want]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_bad_picture_in_a_batch_does_not_fail_the_others(served: Served, protocol: str) -> None:
    answered = served.asker.ask(protocol, "fd1", [PICTURES[0], b"nope", PICTURES[1]])
    assert answered.statuses == [200, 400, 200]
    assert "no picture" in json.loads(answered.bodies[1])["message"]
    assert len(json.loads(answered.bodies[2])["detections"]) > 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_bad_picture_alone_is_the_requests_error(served: Served, protocol: str) -> None:
    error = served.asker.ask(protocol, "fd1", [b"nope"]).error
    assert "400 BadInput: 4 bytes that are no picture" in error
    assert "\n" not in error


def test_the_drawn_picture_is_asked_by_a_parameter(served: Served) -> None:
    answered = served.asker.ask("http", "fd1", PICTURES[:1], accept="image/jpeg")
    assert answered.headers == [{"content-type": "image/jpeg"}]
    assert answered.bodies[0][:3] == b"\xff\xd8\xff"


def test_a_parameter_that_nobody_reads_is_refused(served: Served) -> None:
    assert "threshold" in served.asker.ask("http", "fd1", PICTURES[:1], threshold="0.9").error


def test_the_handlers_figures_are_on_tritons_page(served: Served) -> None:
    served.asker.ask("http", "fd1", PICTURES[:1])
    url = f"http://127.0.0.1:{served.triton.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        page = answer.read().decode()
    assert 'handler_stage_milliseconds{Level="Model",ModelName="fd1",Stage="infer"}' in page
    assert 'handler_fallback{Level="Model",ModelName="fd1",Runtime="onnxruntime"} 0' in page


def test_its_configuration_is_one_of_tritons_own(served: Served, tmp_path: Path) -> None:
    assert main([str(made.detector()), "--repository", str(tmp_path), "--batch-size", "4"]) == 0
    text = (tmp_path / "fd1" / "config.pbtxt").read_text()
    told = served.asker.run("grpc", {"do": "parse_config", "text": text})
    assert told["maxBatchSize"] == 4
    assert [tensor["name"] for tensor in told["output"]] == ["ANSWER", "STATUS", "HEADERS"]
    assert told["modelWarmup"][0]["inputs"]["BODY"]["inputDataFile"] == "sample"
