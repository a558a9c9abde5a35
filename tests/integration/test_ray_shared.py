"""Many archives on few replicas of a real Ray: loaded when they are asked, given up for others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.hosting.model import Model, Request
from tests.support import made, rays
from tests.support.hosted import echo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HEAD, PORT = "127.0.0.1:21700", 21000
URL = f"http://127.0.0.1:{PORT}/predictions"
ECHOES = ("a", "b", "c")
PICTURE = sorted(made.PICTURES.glob("*.jpg"))[0].read_bytes()
FLAGS = ("--cluster", HEAD, "--port", str(PORT), "--replicas", "1", "--share", "2")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    for name in ECHOES:
        echo(folder / "store", name, sleep_ms=50)
    echo(folder / "store", "broken", broken=True)
    # Of the same code as the others, as all that one kit has packed is; else it is refused.
    (folder / "store" / "fd1.mar").write_bytes(made.detector().read_bytes())
    return folder


@pytest.fixture(scope="module")
def said(room: Path) -> Iterator[str]:
    """Served on a node of one CPU; what was said."""
    with rays.network(), rays.node(room, "127.0.0.1"):
        done = rays.run(*FLAGS, "--model-store", room / "store")
        assert done.returncode == 0, done.stderr + done.stdout
        yield done.stdout


def pid(name: str) -> int:
    reply = rays.ask(f"{URL}/{name}", b"x")
    assert reply.status == 200, reply.body
    return int(json.loads(reply.body)["pid"])


def test_every_archive_is_answered_by_one_process(said: str) -> None:
    assert "not served: broken.mar: this machine lacks a part" in said
    local = Model(made.detector(), threads=1)
    (want,) = local.answer([Request(PICTURE)])
    local.close()
    pids = set()
    for _ in range(2):  # of four archives two are loaded at once
        pids |= {pid(name) for name in ECHOES}
        assert rays.ask(f"{URL}/fd1", PICTURE).body == want.body
    assert len(pids) == 1
    assert rays.ask(f"{URL}/broken", b"x").status == 404


def test_what_is_given_up_answers_what_it_has(said: str) -> None:
    with ThreadPoolExecutor(12) as pool:
        replies = list(
            pool.map(lambda i: rays.ask(f"{URL}/{ECHOES[i % 3]}", b"x" * i), range(1, 25))
        )
    told = [json.loads(reply.body) for reply in replies]
    assert [each.get("bytes") for each in told] == list(range(1, 25))


def test_an_update_takes_no_further_process(said: str, room: Path) -> None:
    before = pid("a")
    (room / "sample").write_bytes(b"sample")
    for version, broken, code in (("3.0", True, 1), ("2.0", False, 0)):
        new = echo(room / version, "a", version=version, broken=broken)
        done = rays.run(*FLAGS, "--update", new, "--sample", room / "sample")
        assert done.returncode == code, done.stderr + done.stdout
    told = json.loads(rays.ask(f"{URL}/a", b"x").body)
    assert (told["version"], told["pid"]) == ("2.0", before)
    status = json.loads(rays.run("--cluster", HEAD, "--status").stdout)["models"]
    assert set(status) == {*ECHOES, "fd1"}
    assert {each["replicas"]["RUNNING"] for m in status.values() for each in m.values()} == {1}
