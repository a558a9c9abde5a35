"""Open loops against real sockets: what they send, when, and from when latency counts."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from qpstest import ceiling
from qpstest.arrivals import Arrivals
from qpstest.board import Board
from qpstest.http_api import HttpSession, HttpTarget, Plain
from qpstest.load import Reply, Tally
from qpstest.open_loop import HttpDriver, Window, run_batches, run_sessions

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Peer:
    """A server with a thread a connection that behaves as told.

    Attributes:
        sleep: seconds before each answer.
        lock: held while answering, where one request is answered at a time.
        close: whether it closes after each answer without saying so.
        once: whether it closes at the second request on a connection, without an answer.
        seen: the times at which requests were whole.
    """

    def __init__(self) -> None:
        self.sleep = 0.0
        self.alone = False
        self.close = False
        self.once = False
        self.lock = threading.Lock()
        self.seen: list[float] = []
        self.connections = 0
        self.answer = ANSWER

    def serve(self, connection: socket.socket) -> None:
        answered = 0
        with connection, contextlib.suppress(OSError):
            while True:
                data = b""
                while b"\r\n\r\n" not in data:
                    more = connection.recv(65536)
                    if not more:
                        return
                    data += more
                head, body = data.split(b"\r\n\r\n", 1)
                missing = int(head.split(b"Content-Length: ")[1].split(b"\r")[0]) - len(body)
                while missing > 0:
                    missing -= len(connection.recv(min(missing, 1 << 16)))
                if self.once and answered:
                    return
                answered += 1
                self.seen.append(time.perf_counter())
                if self.alone:
                    with self.lock:
                        time.sleep(self.sleep)
                else:
                    time.sleep(self.sleep)
                connection.sendall(self.answer)
                if self.close:
                    return


@contextmanager
def peer() -> Iterator[tuple[str, Peer]]:
    behaviour = Peer()
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    behaviour.connections += 1
                    threading.Thread(
                        target=behaviour.serve, args=(connection,), daemon=True
                    ).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", behaviour
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def new_board() -> Board:
    board = Board(multiprocessing.get_context("spawn"))
    board.open(0)
    return board


def target_of(url: str, body: bytes = b"picture", timeout: float = 5.0) -> HttpTarget:
    return HttpTarget(url, Plain("/predictions/m"), [body], timeout)


def drive(
    target: HttpTarget, times: Sequence[float], connections: int = 50, **more: object
) -> Tally:
    arrivals = Arrivals("recorded", 1.0, times=tuple(times), **more)  # type: ignore[arg-type]
    window = Window(arrivals, new_board(), time.perf_counter() + 0.05, target.timeout)
    return HttpDriver(target, connections, window).run()


def test_requests_are_sent_when_due_whatever_the_server_does() -> None:
    times = [i / 50 for i in range(20)]
    with peer() as (url, server):
        server.sleep = 0.3
        tally = drive(target_of(url), times)
    assert len(tally.latencies) == 20
    assert tally.errors == {}
    apart = [seen - server.seen[0] for seen in sorted(server.seen)]
    assert max(abs(a - t) for a, t in zip(apart, times, strict=True)) < 0.1
    assert server.connections > 10  # many at once
    assert 0.3 <= min(tally.latencies) < 0.5


def test_latency_counts_from_when_a_request_was_due() -> None:
    with peer() as (url, server):
        server.sleep, server.alone = 0.05, True
        tally = drive(target_of(url), [0.0] * 6)
        few = drive(target_of(url), [0.0] * 6, connections=1)
    for found in (tally, few):
        assert [round(latency / 0.05) for latency in sorted(found.latencies)] == [1, 2, 3, 4, 5, 6]
    assert few.waited == 5
    assert few.late >= 5  # they could not be sent in time, and are not dropped
    assert max(few.lateness) > 0.2
    assert tally.waited == 0


def test_lead_and_tail_are_not_counted() -> None:
    with peer() as (url, server):
        server.sleep = 0.1
        window = Window(
            Arrivals("constant", 20.0, count=10), new_board(), time.perf_counter() + 1.1, 5.0
        )
        tally = HttpDriver(target_of(url), 50, window).run()
    assert len(tally.latencies) == 10
    assert len(tally.lateness) == 10
    assert tally.sent == len(server.seen) > 29  # a second before; after, until all was answered


def test_large_bodies_in_both_directions() -> None:
    body = bytes(5_000_000)
    with peer() as (url, server):
        answer = b'"' + b"x" * 3_000_000 + b'"'
        server.answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer
        tally = drive(target_of(url, body), [0.0, 0.0, 0.3])
    assert tally.errors == {}
    assert len(tally.latencies) == 3


def test_a_connection_that_the_server_closed_while_idle_loses_no_request() -> None:
    with peer() as (url, server):
        server.close = True
        tally = drive(target_of(url), [0.0, 0.2, 0.4])
        assert server.connections >= 3
        server.close, server.once = False, True
        again = drive(target_of(url), [0.0, 0.2, 0.4])
    for found in (tally, again):
        assert found.errors == {}
        assert len(found.latencies) == 3


def test_failures_are_counted_by_kind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert drive(target_of(f"http://127.0.0.1:{port}"), [0.0, 0.01]).errors == {"refused": 2}
    with peer() as (url, server):
        server.answer = b"HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\n{}"
        assert drive(target_of(url), [0.0]).errors == {"400": 1}
        server.answer = b"SSH-2.0\r\n\r\n"
        assert drive(target_of(url), [0.0]).errors == {"wrong_answer": 1}
        server.answer = ANSWER[:-1]
        server.close = True
        assert drive(target_of(url), [0.0]).errors == {"reset": 1}


def test_time_limits_in_flight_and_before() -> None:
    with peer() as (url, server):
        server.sleep = 1.0
        began = time.perf_counter()
        tally = drive(target_of(url, timeout=0.2), [0.0, 0.0], connections=1)
        assert time.perf_counter() - began < 0.9
    assert tally.errors in ({"timeout": 1, "unsent": 1}, {"timeout": 2})
    assert tally.unsent == tally.errors["unsent"]


def test_patience_ends_the_window() -> None:
    with peer() as (url, server):
        server.sleep = 2.0
        began = time.perf_counter()
        tally = drive(target_of(url), [0.0], patience=0.2)
    assert time.perf_counter() - began < 1.0
    assert tally.errors == {"timeout": 1}


def test_an_interrupted_window_keeps_what_was_answered() -> None:
    board = new_board()
    with peer() as (url, server):
        server.sleep = 0.2
        arrivals = Arrivals("recorded", 1.0, times=(0.0, 0.3, 5.0))
        window = Window(arrivals, board, time.perf_counter(), 5.0)
        threading.Timer(0.4, board.stop).start()
        began = time.perf_counter()
        tally = HttpDriver(target_of(url), 5, window).run()
    assert time.perf_counter() - began < 1.5
    assert (len(tally.latencies), tally.errors) == (1, {})  # the second was still on its way


def test_a_window_ends_early_once_its_limit_cannot_be_met() -> None:
    with peer() as (url, server):
        server.sleep = 0.05
        times = [i / 100 for i in range(200)]
        tally = drive(target_of(url), times, limit=(0.99, 0.01))
        whole = drive(target_of(url), times[:30], limit=(0.99, 1.0))
    assert tally.cut
    assert 4 <= len(tally.latencies) < 60
    assert not whole.cut
    assert len(whole.latencies) == 30


def test_sessions_on_threads_do_the_same() -> None:
    with peer() as (url, server):
        server.sleep = 0.1
        target = target_of(url)
        arrivals = Arrivals("recorded", 1.0, times=tuple(i / 50 for i in range(20)))
        for connections in (50, 2):
            window = Window(arrivals, new_board(), time.perf_counter() + 0.05, 5.0)
            tally = run_sessions(lambda: HttpSession(target), connections, window)
            assert len(tally.latencies) == 20
            assert tally.errors == {}
            slowest = max(tally.latencies)
            assert slowest < 0.3 if connections == 50 else slowest > 0.5
            assert (tally.waited > 0) == (connections == 2)


def test_a_fault_in_a_session_is_not_hidden() -> None:
    class Broken:
        def call(self, number: int) -> Reply:
            raise ZeroDivisionError

        def close(self) -> None:
            """Nothing is open."""

    window = Window(
        Arrivals("recorded", 1.0, times=(0.0, 0.1)), new_board(), time.perf_counter(), 5.0
    )
    with pytest.raises(ZeroDivisionError):
        run_sessions(Broken, 5, window)


def test_batches_wait_until_something_is_due() -> None:
    sizes: list[int] = []

    def handle(numbers: Sequence[int]) -> list[Reply]:
        sizes.append(len(numbers))
        time.sleep(0.05)
        return [Reply("")] * len(numbers)

    arrivals = Arrivals("recorded", 1.0, times=(0.0, 0.0, 0.0, 0.3))
    tally = run_batches(handle, 2, Window(arrivals, new_board(), time.perf_counter(), 5.0))
    assert sizes == [2, 1, 1]
    assert [round(s / 0.05) for s in sorted(tally.latencies)] == [1, 1, 1, 2]


def test_the_generators_own_ceiling_is_measured() -> None:
    own = ceiling.measure(target_of("http://127.0.0.1:9", bytes(1000)))
    assert 300 < own < 200_000
