"""What the generator itself can send: its rate against a server that does nothing."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection

from qpstest.arrivals import Arrivals
from qpstest.board import Board
from qpstest.http_api import HttpTarget
from qpstest.open_loop import HttpDriver, Window

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
REQUESTS = 4000
CONNECTIONS = 32
LONGEST = 10.0
"""Seconds."""


def measure(target: HttpTarget) -> float:
    """Requests per second that one process sends and gets answered, with the target's bodies."""
    board = Board(multiprocessing.get_context("spawn"))
    board.open(0)
    with nothing() as url:
        there = replace(target, url=url, token=None, accept="application/json")
        at_once = Arrivals("recorded", 1.0, times=(0.0,) * REQUESTS, patience=LONGEST)
        began = time.perf_counter()
        tally = HttpDriver(there, CONNECTIONS, Window(at_once, board, began, LONGEST)).run()
        answered = len(tally.ends) + sum(tally.errors.values())
        return answered / (time.perf_counter() - began)


@contextmanager
def nothing() -> Iterator[str]:
    """The address of a server in a process of its own that answers ``{}`` to everything."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()
        process.join()
        ours.close()
        theirs.close()


def serve(report: Connection) -> None:
    """Answers until it is killed; ``report`` is told the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        poll = select.epoll()
        poll.register(listener.fileno(), select.EPOLLIN)
        report.send(listener.getsockname()[1])
        missing: dict[int, int] = {}
        open_sockets: dict[int, socket.socket] = {}
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == listener.fileno():
                    with contextlib.suppress(BlockingIOError):
                        sock, _ = listener.accept()
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        poll.register(sock.fileno(), select.EPOLLIN)
                        open_sockets[sock.fileno()], missing[sock.fileno()] = sock, 0
                    continue
                sock = open_sockets[descriptor]
                data = b""
                with contextlib.suppress(ConnectionError):
                    data = sock.recv(1 << 18)
                if not data:
                    del open_sockets[descriptor], missing[descriptor]
                    sock.close()
                    continue
                missing[descriptor] = (missing[descriptor] or _length(data)) - len(data)
                if missing[descriptor] <= 0:
                    missing[descriptor] = 0
                    sock.sendall(ANSWER)


def _length(data: bytes) -> int:
    """Bytes of the request that begins with ``data``, whose head the tester sends in one piece."""
    head, _, _ = data.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return len(head) + 4 + (int(found[1]) if found else 0)
