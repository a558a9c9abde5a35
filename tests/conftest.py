"""Fixtures of all tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.torchserve.server import Server
from tests.support import isa as isas
from tests.support import shared
from tests.support.archives import write_archive
from tests.support.servers import serving, settings_for

ServerFactory = Callable[..., Server]

LONG = ("integration", "faults", "seams")
"""Folders whose files take long."""


def pytest_configure(config: pytest.Config) -> None:
    """Makes the folder that the processes of this run share."""
    if not hasattr(config, "workerinput"):
        if shared.SHARED not in os.environ:
            folder = tempfile.mkdtemp(prefix="kit-tests-")
            os.environ[shared.SHARED] = folder
            config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        if config.getoption("numprocesses", None):
            # The processes share the cores. OpenMP's threads spin while they wait for each other:
            # two in each of two processes on two cores took up to eight times the processor time.
            os.environ.setdefault("OMP_NUM_THREADS", "1")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in a shell's background job. What the tests start would inherit it, and be deaf to the
        # Ctrl-C that some of them send.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin first, so that no process is left with one at the end."""
    items.sort(key=lambda item: item.path.parent.name not in LONG)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their argument, not by what they hold: a body with the time in it, or a
    random one, would have another name in each of the processes, and they would not start.
    """
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Beside the tests of other processes, but for those that measure: these run alone."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with shared.turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(params=isas.ISAS, ids=lambda isa: isa or "as it is")
def isa(request: pytest.FixtureRequest) -> str:
    """The processor as it is, then as older ones: see ``tests.support.isa``."""
    return str(request.param)


@pytest.fixture
def server_factory(tmp_path: Path) -> Iterator[ServerFactory]:
    """Starts real servers: ``server_factory(store, name="fd1", workers=2, ...)``.

    Values are fields of ``deploy.torchserve.settings.Settings``; all servers are stopped after the
    test.
    """
    with ExitStack() as stack:
        count = iter(range(1000))

        def start(store: Path, wait: bool = True, **values: object) -> Server:
            settings = settings_for(store, tmp_path / f"run{next(count)}", **values)
            return stack.enter_context(serving(settings, wait))

        yield start


@pytest.fixture(scope="session")
def echo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the whole session; its model ``fd1`` answers the length of each body."""
    folder = tmp_path_factory.mktemp("echo")
    write_archive(folder, "fd1")
    with serving(settings_for(folder, folder / "run", workers=2)) as server:
        yield server
