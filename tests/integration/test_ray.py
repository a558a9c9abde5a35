"""The kit on a real Ray: a store served, asked, limited, described, and ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.hosting.model import Model, Request
from tests.support import made, rays
from tests.support.hosted import echo
from tests.support.rays import Served, ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PICTURES = sorted(made.PICTURES.glob("*.jpg"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped detector, a model that sleeps and batches, and what cannot be served."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "fd1.mar").write_bytes(made.detector().read_bytes())
    echo(folder, "slow", sleep_ms=400, batches=(1, 4))
    echo(folder, "broken", broken=True)
    (folder / "cut.mar").write_bytes(made.detector().read_bytes()[:-100])
    return folder


@pytest.fixture(scope="module")
def served(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    flags = ("--replicas", "1", "--queue", "8", "--max-request-mb", "1", "--drain-timeout", "5")
    with rays.network(), rays.serving(tmp_path_factory.mktemp("run"), store, *flags) as found:
        yield found


def test_the_detectors_answers_are_the_archives_own_byte_for_byte(served: Served) -> None:
    local = Model(made.detector(), threads=1)
    for path in PICTURES:
        picture = path.read_bytes()
        for headers in ({}, {"Accept": "image/jpeg"}):
            (expected,) = local.answer([Request(picture, headers)])
            reply = ask(f"{served.url}/predictions/fd1", picture, headers)
            assert reply.status == expected.status == 200
            assert reply.headers["content-type"] == expected.media_type
            assert reply.body == expected.body
    local.close()


def test_addresses_and_errors_are_torchserves(served: Served) -> None:
    picture = PICTURES[0].read_bytes()
    url = f"{served.url}/predictions/fd1"
    assert ask(f"{url}/1.0", picture).body == ask(url, picture, method="PUT").body
    for path, body, status, kind in (
        ("/predictions/fd1", b"x", 400, "BadInput"),
        ("/predictions/fd1/9.9", picture, 404, "ModelVersionNotFoundException"),
        ("/predictions/none", picture, 404, "ModelNotFoundException"),
        ("/predictions/broken", picture, 404, "ModelNotFoundException"),
        ("/predictions/fd1?a=1", picture, 400, "BadInput"),
        ("/predictions/fd1", None, 405, "MethodNotAllowedException"),
        ("/predictions", picture, 404, "ResourceNotFoundException"),
        ("/predictions/fd1", bytes(1 << 21), 413, "ContentTooLargeException"),
    ):
        reply = ask(f"{served.url}{path}", body)
        assert reply.status == status, path
        told = json.loads(reply.body)
        assert (told["code"], told["type"]) == (status, kind)
        assert reply.headers["content-type"] == "application/json"


def test_what_cannot_be_served_is_named_and_the_others_are_served(served: Served) -> None:
    said = served.said()
    assert "refused  cut.mar: no whole archive" in said
    assert "model    not served: broken.mar: this machine lacks a part" in said
    listed = ask(f"{served.url}/models").json()
    assert [m["modelName"] for m in listed["models"]] == ["fd1", "slow"]  # type: ignore[index]
    (told,) = json.loads(ask(f"{served.url}/models/fd1").body)
    assert told["metadata"]["runtime"]["name"] == "onnxruntime"
    assert json.loads(ask(f"{served.url}/ping").body) == {"status": "Healthy"}


def test_requests_are_batched_as_the_archive_was_built(served: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda n: ask(f"{served.url}/predictions/slow", b"x"), range(8)))
    assert {r.status for r in replies} == {200}
    sizes = [int(r.headers["x-batch"]) for r in replies]
    assert max(sizes) == 4


def test_a_full_queue_says_when_to_come_again(served: Served) -> None:
    with ThreadPoolExecutor(40) as pool:
        replies = list(pool.map(lambda n: ask(f"{served.url}/predictions/slow", b"x"), range(40)))
    full = [r for r in replies if r.status == 503]
    assert full and len(full) < 40
    assert {r.status for r in replies} == {200, 503}
    assert all(r.headers["retry-after"] == "1" for r in full)
    assert json.loads(full[0].body)["type"] == "ServiceUnavailableException"
    assert ask(f"{served.url}/predictions/slow", b"x").status == 200


def test_a_replica_that_dies_is_replaced(served: Served) -> None:
    before = json.loads(ask(f"{served.url}/predictions/slow", b"x").body)["pid"]
    assert ask(f"{served.url}/predictions/slow", b"die").status == 503
    after = ask(f"{served.url}/predictions/slow", b"x")
    assert after.status == 200
    assert json.loads(after.body)["pid"] != before


def test_figures_of_all_processes_are_on_one_page(served: Served) -> None:
    ask(f"{served.url}/predictions/fd1", PICTURES[0].read_bytes())
    wanted = ('handler_items{Level="Model",ModelName="fd1"', 'ingress_answers{ModelName="fd1"')
    for _ in range(40):
        page = ask(f"{served.url}/metrics").body.decode()
        if all(w in page for w in wanted):
            break
    assert all(w in page for w in wanted), page
    assert page.count("# TYPE handler_items counter") == 1


def test_a_second_server_names_the_port_that_is_taken(served: Served, store: Path) -> None:
    done = rays.run("--model-store", store, "--port", str(served.port))
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert said[-1].startswith(f"error: port {served.port} is taken by ray::ProxyActor")


def test_nothing_listens_beyond_this_machine(served: Served) -> None:
    listening = [
        fields[1].rpartition(":")[0]
        for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6")
        for fields in map(str.split, Path(table).read_text().splitlines()[1:])
        if fields[3] == "0A"
    ]
    own = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert len(listening) > 5
    assert set(listening) <= own
