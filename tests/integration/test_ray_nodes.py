"""The kit on a Ray of two nodes: parts of it are killed and added under load."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import psutil
import pytest

from tests.support import rays
from tests.support.hosted import echo
from tests.support.rays_load import errors, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HEAD = "127.0.0.1:21700"
URL = "http://127.0.0.1:21010/predictions/echo"


@dataclass(frozen=True)
class Cluster:
    """Its second node, which may be ended, and how a third one is begun."""

    second: Popen[bytes]
    stack: ExitStack
    folder: Path

    def add(self, address: str) -> None:
        self.stack.enter_context(rays.node(self.folder, address, HEAD))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = Path(tmp_path_factory.mktemp("r"))
    store = folder / "store"
    echo(store, "echo", sleep_ms=20)
    with rays.network(), ExitStack() as stack:
        stack.enter_context(rays.node(folder, "127.0.0.1"))
        second = stack.enter_context(rays.node(folder, "127.0.0.2", HEAD))
        flags = ("--model-store", store, "--port", "21010", "--replicas", "2", "--queue", "1000")
        done = rays.run("--cluster", HEAD, *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Cluster(second, stack, folder)


def test_no_request_is_lost_to_a_client_that_asks_again(cluster: Cluster) -> None:
    with opened(URL, rate=15, retries=10) as seen:
        time.sleep(4)
        pids = {s.pid for s in seen}
        assert len(pids) == 2, "both nodes answer"
        psutil.Process(min(pids)).kill()
        time.sleep(8)
        (raylet,) = rays.parts(cluster.second, "raylet")
        raylet.kill()
        time.sleep(8)
        cluster.add("127.0.0.3")
        time.sleep(12)
    assert errors(seen) == []
    assert len(seen) > 400
    late = {s.pid for s in seen if s.due > seen[-1].due - 3}
    assert len(late) == 2, "the new node answers"
    status = json.loads(rays.run("--cluster", HEAD, "--status").stdout)
    assert status["nodes"] == ["127.0.0.1", "127.0.0.3"]


def test_a_cluster_that_is_not_there_is_named(cluster: Cluster) -> None:
    done = rays.run("--cluster", "127.0.0.1:1", "--status")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: --cluster 127.0.0.1:1: nothing answers there"]
