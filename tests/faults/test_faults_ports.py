"""Rows 27, 34 and 35: who may listen where, who may ask, and what is not to be had at all."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.torchserve.settings import make
from tests.support import made
from tests.support.archives import write_archive
from tests.support.bench import Bench, bench
from tests.support.bodies import ARRAY, npy
from tests.support.servers import free_ports

HOLD = (
    "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); "
    "print(flush=True); sys.stdin.read()"
)


@pytest.mark.parametrize(("offset", "setting"), [(0, "PORT"), (1, "PORT"), ("grpc", "GRPC_PORT")])
def test_row_27_a_taken_port_is_named_with_its_holder(
    served: Bench, offset: int | str, setting: str
) -> None:
    port, grpc_port = free_ports()
    taken = grpc_port if isinstance(offset, str) else port + offset
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(taken)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        settings = {
            "NAME": "tiny",
            "MODEL_STORE": str(made.tensors().parent),
            "PORT": str(port),
            "GRPC_PORT": str(grpc_port),
            "RUN_DIR": str(served.server.settings.run_dir / "other"),
        }
        done = subprocess.run(
            [sys.executable, str(made.ROOT / "deploy" / "torchserve" / "serve.py")],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        assert holder.stdin is not None
        holder.stdin.close()
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: port {taken} (")
        assert f"is taken by {psutil.Process(holder.pid).name()} (process {holder.pid}: " in line
        assert line.endswith(f"stop it, or choose another with {setting}=")


def listening(found: Bench) -> set[tuple[str, int]]:
    """What the server's own processes listen on."""
    own = found.server.state
    pids = {own.pid, *(p.pid for p in (*own.workers(), *own.guards()))}
    ends: list[tuple[object, ...]] = [
        tuple(c.laddr)
        for c in psutil.net_connections("inet")
        if c.pid in pids and c.status == psutil.CONN_LISTEN
    ]
    return {(str(at[0]), int(str(at[1]))) for at in ends}


def plain(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def test_row_34_every_port_is_on_loopback(served: Bench) -> None:
    found = listening(served)
    assert {port for _, port in found} == {p for _, p in served.server.settings.ports.values()}
    assert all(plain(ip).is_loopback for ip, _ in found), found


def test_row_34_management_does_not_answer_on_another_address(served: Bench) -> None:
    for purpose in ("management", "metrics", "predictions"):
        _, port = served.server.settings.ports[purpose]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, False),
        ({"host": "127.0.0.2"}, False),
        ({"tokens": "1"}, True),
        ({"host": "0.0.0.0"}, True),
        ({"host": "192.0.2.7"}, True),
        ({"management_host": "192.0.2.7"}, True),
    ],
)
def test_row_34_beyond_loopback_tokens_are_on(values: dict[str, str], expected: bool) -> None:
    assert make(values).needs_tokens is expected


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/x.mar", "{outside}", "file:///etc/passwd", "tiny.mar", "../x.mar"]
)
def test_row_35_nothing_can_be_registered(served: Bench, tmp_path: Path, url: str) -> None:
    """Row 35: from elsewhere, from outside the store, nor from the store itself."""
    where = url.format(outside=write_archive(tmp_path, "outside").as_uri())
    models = served.ask(b"", purpose="management", path="/models").json()
    for path, status in ((f"/models?url={where}", 405), (f"/workflows?url={where}", 404)):
        answer = served.server.client.request("management", "POST", path)
        assert answer.status == status, answer.body
        assert "\n" not in str(json.loads(answer.body)["message"]).strip()
    assert served.ask(b"", purpose="management", path="/models").json() == models


@pytest.fixture(scope="module")
def guarded() -> Iterator[Bench]:
    """A server that wants tokens."""
    with bench({"tiny": made.tensors()}, ("tiny", npy(ARRAY)), tokens=1) as found:
        yield found


WRONG = [None, "Bearer wrong", "Bearer ", "wrong", "Basic dXNlcjpwYXNz"]


@pytest.mark.parametrize("token", WRONG)
@pytest.mark.parametrize(
    ("purpose", "path"),
    [("predictions", "/predictions/{}"), ("management", "/models/{}"), ("management", "/models")],
)
def test_row_34_no_or_a_wrong_token_is_refused(
    guarded: Bench, purpose: str, path: str, token: str | None
) -> None:
    body = npy(ARRAY) if purpose == "predictions" else b""
    headers = {} if token is None else {"Authorization": token}
    pids = guarded.pids()
    reply = guarded.ask(body, "tiny", purpose, path, **headers)
    assert reply.status in (400, 401, 403)
    assert "oken" in str(reply.json()["message"])
    assert guarded.pids() == pids


def test_row_34_the_right_token_opens_its_own_door_only(guarded: Bench) -> None:
    keys = json.loads((guarded.server.settings.run_dir / "key_file.json").read_text())
    inference, management = (
        {"Authorization": f"Bearer {keys[kind]['key']}"} for kind in ("inference", "management")
    )
    body = npy(ARRAY)
    assert guarded.ask(body, "tiny", **inference).status == 200
    assert guarded.ask(body, "tiny", **management).status in (400, 401, 403)
    listed = guarded.ask(b"", purpose="management", path="/models", **management)
    assert listed.json()["models"][0]["modelName"] == "tiny"
    wrong = guarded.ask(b"", purpose="management", path="/models", **inference)
    assert wrong.status in (400, 401, 403)
    mode = (guarded.server.settings.run_dir / "key_file.json").stat().st_mode
    assert mode & 0o077 == 0 or guarded.server.settings.run_dir.stat().st_mode & 0o077 == 0
