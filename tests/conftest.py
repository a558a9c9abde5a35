"""A real server for the tests: real TorchServe, real archives, free ports, folders of its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from deploy.torchserve import server as servers
from deploy.torchserve import state
from deploy.torchserve.archives import survey
from deploy.torchserve.server import Server
from deploy.torchserve.settings import Settings, make
from handlers import passport as passports
from handlers.passport import Passport
from repack.archive import MANIFEST, pack
from tests.support import isa as isas

ECHO = '''
class Handler:
    """Answers the length of each body."""

    def initialize(self, context):
        self.batch = context.system_properties["batch_size"]

    def handle(self, rows, context):
        return [b'{"bytes": %d}' % len(row.get("body") or b"") for row in rows]
'''


def write_archive(
    store: Path, name: str, code: str = ECHO, version: str = "1.0", task: str = "tensors"
) -> Path:
    """Writes an archive whose handler is the given Python code; returns its path."""
    stage = store / f".stage-{name}"
    (stage / "MAR-INF").mkdir(parents=True)
    (stage / "given.py").write_text(code)
    model = {"modelName": name, "modelVersion": version, "handler": "given.py"}
    manifest = {"runtime": "python", "archiverVersion": "0.12.0", "model": model}
    (stage / MANIFEST).write_text(json.dumps(manifest))
    hashes = {n: passports.sha256(stage / n) for n in ("given.py", MANIFEST)}
    passport = Passport(
        name=name,
        version=version,
        task=task,
        handler="given:Handler",
        source={},
        inputs=(),
        outputs=(),
        labels=(),
        settings={},
        artefacts={},
        gate={},
        versions={},
        files=hashes,
    )
    (stage / passports.FILE).write_text(passport.to_json())
    target = store / f"{name}.mar"
    pack(stage, target)
    for path in sorted(stage.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    stage.rmdir()
    return target


def free_ports() -> tuple[int, int]:
    """Free ports for HTTP (with its two successors) and gRPC (with its successor)."""
    found: list[int] = []
    with ExitStack() as held:
        for count in (3, 2):
            while True:
                probe = socket.create_server(("127.0.0.1", 0))
                held.enter_context(probe)
                first = probe.getsockname()[1]
                try:
                    for port in range(first + 1, first + count):
                        held.enter_context(socket.create_server(("127.0.0.1", port)))
                except OSError:
                    continue
                found.append(first)
                break
    return found[0], found[1]


def settings_for(store: Path, run_dir: Path, **values: object) -> Settings:
    """Settings on free ports of loopback, with one worker where nothing else is said."""
    port, grpc_port = free_ports()
    texts = {"workers": 1, "port": port, "grpc_port": grpc_port, "model_store": store, **values}
    return make({**{k: str(v) for k, v in texts.items()}, "run_dir": str(run_dir)})


@contextmanager
def serving(settings: Settings, wait: bool = True) -> Iterator[Server]:
    """A server of the store's archives; the named model is READY, and all is gone afterwards."""
    state.prepare(settings.run_dir)
    archives, _ = survey(settings.model_store)
    server = servers.start(settings, archives)
    try:
        if wait:
            server.wait_ready(settings.name)
        yield server
    finally:
        servers.stop(server, drain_s=0)


ServerFactory = Callable[..., Server]


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
