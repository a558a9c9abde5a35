"""The server that the faults are done to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import made
from tests.faults.bench import GOOD, Bench, bench


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A detector in batches of four and a model of raw tensors, with a short queue."""
    tmp_path_factory.getbasetemp()  # made before TMPDIR changes
    archives = {"fd1": made.detector(), "tiny": made.tensors()}
    values = {"batch_size": 4, "max_batch_delay": 100, "queue": 8, "max_request_mb": 2}
    with bench(archives, ("fd1", GOOD), **values) as found:
        found.server.wait_ready("tiny")
        yield found


@pytest.fixture
def served(running: Bench) -> Iterator[Bench]:
    """The running server, checked after the test: nothing restarted, nothing left behind."""
    with running.undisturbed():
        yield running
