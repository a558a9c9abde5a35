"""The network as a model of its own in a real Triton, which the archive's handlers ask.

Triton's own backends are not in the server that can be had here, so the network's file is run by a
stand-in with the same configuration; all else is what a user gets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.hosting.model import Model, Request
from deploy.triton.__main__ import main
from repack import archive as archives
from tests.support import classifiers, hosts, made, triton, v2_client

pytestmark = pytest.mark.slow
PICTURES = [path.read_bytes() for path in sorted(made.PICTURES.glob("*.jpg"))[:3]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[v2_client.Asker]:
    repository = tmp_path_factory.mktemp("triton") / "models"
    for packed in (made.detector(), classifiers.archive(), made.tensors(), made.vessels()):
        flags = ["--repository", str(repository), "--instances", "1", "--native"]
        more = ["--batch-size", "4"] if packed.stem in ("fd1", "kinds") else []
        assert main([str(packed), *flags, *more]) == 0
        triton.stand_in(repository / f"{packed.stem}_network")
    with triton.serving(repository, triton.HANDLERS) as found:
        yield hosts.asker(found.urls)


def local(packed: Path, folder: Path) -> Model:
    archives.unpack(packed, folder)
    return Model(folder)


def test_a_classifiers_answers_are_the_handlers(served: v2_client.Asker, tmp_path: Path) -> None:
    answered = served.ask("http", "kinds", PICTURES)
    want = local(classifiers.archive(), tmp_path).answer([Request(p) for p in PICTURES])
    assert answered.bodies == [a.body for a in want]


def test_a_detectors_boxes_are_found_in_its_raw_maps(
    served: v2_client.Asker, tmp_path: Path
) -> None:
    """Suppressed on the CPU, where the archive's own graph does it: the last digit may differ."""
    answered = served.ask("grpc", "fd1", [PICTURES[0], b"nope", *PICTURES[1:]])
    assert answered.statuses == [200, 400, 200, 200]
    model = local(made.detector(), tmp_path)
    for body, picture in zip((answered.bodies[i] for i in (0, 2, 3)), PICTURES, strict=True):
        (want,) = model.answer([Request(picture)])
        found, expected = json.loads(body), json.loads(want.body)
        assert found["runtime"] == expected["runtime"]
        assert len(found["detections"]) == len(expected["detections"]) > 0
        for one, other in zip(found["detections"], expected["detections"], strict=True):
            assert one["class"] == other["class"]
            assert one["confidence"] == pytest.approx(other["confidence"], abs=2e-4)
            assert one["box"] == pytest.approx(other["box"], abs=0.02)


def test_a_volumes_windows_are_asked_one_by_one(served: v2_client.Asker, tmp_path: Path) -> None:
    scan = made.vessels_scan(tmp_path / "scans", (64, 128, 160)).read_bytes()
    answered = served.ask("grpc", "vessels", [scan], accept="application/gzip")
    asked = Request(scan, {"accept": "application/gzip"})
    (want,) = local(made.vessels(), tmp_path / "local").answer([asked])
    assert answered.bodies == [want.body]


@pytest.mark.parametrize("name", ["fd1", "kinds", "tiny"])
def test_the_networks_configuration_is_one_of_tritons_own(
    served: v2_client.Asker, tmp_path: Path, name: str
) -> None:
    packed = {"fd1": made.detector, "kinds": classifiers.archive, "tiny": made.tensors}[name]()
    assert main([str(packed), "--repository", str(tmp_path), "--native"]) == 0
    text = (tmp_path / f"{name}_network" / "config.pbtxt").read_text()
    told = served.run("grpc", {"do": "parse_config", "text": text})
    assert told["backend"] == "onnxruntime"
    assert told.get("maxBatchSize", 0) == (0 if name == "tiny" else 1)
    assert told["parameters"]["intra_op_thread_count"]["stringValue"].isdigit()
    if name == "fd1":
        assert [output["dims"] for output in told["output"]] == [
            ["3", "40", "40", "11"], ["3", "20", "20", "11"], ["3", "10", "10", "11"],
        ]  # fmt: skip
        assert told["input"] == [
            {"name": "images", "dataType": "TYPE_UINT8", "dims": ["320", "320", "3"]}
        ]
