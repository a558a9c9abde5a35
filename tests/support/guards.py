"""A guard of its own limits before a server that runs, and clients that behave badly."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.torchserve.state import GUARD
from tests.support.bench import Bench
from tests.support.made import ROOT
from tests.support.servers import free_ports

RUN = """
import json, sys
from deploy.torchserve.guard import __main__ as program, limits
limits.__dict__.update(json.loads(sys.argv[2]))
program.main()
"""


@contextmanager
def guarding(bench: Bench, limits: dict[str, float], **given: object) -> Iterator[int]:
    """Another guard before the bench's server, with other limits; gives its port."""
    port, _ = free_ports()
    (told,) = json.loads((Path(bench.server.state.temp) / GUARD).read_text())[:1]
    file = bench.room / "run" / "another-guard.json"
    own = {"port": port, "shared": False, "metrics": ("", 0)}
    file.write_text(json.dumps([{**told, **own, **given}]))
    command = [sys.executable, "-c", RUN, str(file), json.dumps(limits)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            for _ in range(200):
                with ExitStack() as tried:
                    try:
                        tried.enter_context(socket.create_connection(("127.0.0.1", port)))
                        break
                    except OSError:
                        time.sleep(0.05)
            yield port
        finally:
            process.kill()


@contextmanager
def clients(port: int, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that have sent something and wait."""
    with ExitStack() as held:
        found = []
        for _ in range(count):
            client = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            client.sendall(sent)
            found.append(client)
        yield found


def said(client: socket.socket) -> bytes:
    """All that the server says until it closes."""
    found = b""
    try:
        while data := client.recv(1 << 16):
            found += data
    except ConnectionResetError:
        pass
    return found


def status(answer: bytes) -> int:
    """The status of a whole HTTP answer; 0 where none came."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


def message(answer: bytes) -> str:
    """The reason in a refusal, which is one line of valid JSON."""
    found = str(json.loads(answer.partition(b"\r\n\r\n")[2])["message"])
    assert "\n" not in found
    return found


def question(body: bytes, model: str = "fd1", more: Sequence[str] = ()) -> bytes:
    """A prediction as it goes over the wire."""
    lines = [f"POST /predictions/{model} HTTP/1.1", "Host: a", *more]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}\r\n\r\n"]).encode() + body
