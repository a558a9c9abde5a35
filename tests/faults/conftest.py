"""The server that the faults are done to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import made, volumes
from tests.support.bench import GOOD, Bench, bench

WIDE = {"patch": [32, 128, 128], "windows": {"overlap": 0.0, "gaussian": False, "mirror": []}}
TWO = [{"name": n, "normalisation": {"kind": "zscore"}} for n in ("T1", "T2")]


@pytest.fixture(scope="session")
def running() -> Iterator[Bench]:
    """A detector in batches of four and a model of raw tensors, with a short queue."""
    archives = {"fd1": made.detector(), "tiny": made.tensors()}
    values = {
        "batch_size": 4,
        "max_batch_delay": 100,
        "queue": 8,
        "max_request_mb": 2,
        "volume_memory_mb": 48,
    }
    with bench(archives, ("fd1", GOOD), **values) as found:
        found.server.wait_ready("tiny")
        yield found


@pytest.fixture
def served(running: Bench) -> Iterator[Bench]:
    """The running server, checked after the test: nothing restarted, nothing left behind."""
    with running.undisturbed():
        yield running


@pytest.fixture(scope="session")
def volume_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Three segmentation models, on a server of ``volumes.VOLUME_LIMIT`` bytes a body."""
    store = tmp_path_factory.mktemp("volumes")
    archives = {
        "seg": volumes.write_archive(store / "seg.mar", volumes.settings()),
        "wide": volumes.write_archive(store / "wide.mar", volumes.settings(**WIDE)),
        "two": volumes.write_archive(store / "two.mar", volumes.settings(channels=TWO)),
    }
    values = {
        "max_request_mb": volumes.VOLUME_LIMIT >> 20,
        "volume_memory_mb": volumes.VOLUME_MEMORY_MB,
    }
    with bench(archives, ("seg", volumes.VOLUME), **values) as found:
        for name in archives:
            found.server.wait_ready(name)
        yield found


@pytest.fixture
def scanning(volume_server: Bench) -> Iterator[Bench]:
    """The server of volumes, checked after the test as ``served`` is."""
    with volume_server.undisturbed():
        yield volume_server
