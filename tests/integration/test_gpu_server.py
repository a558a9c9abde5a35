"""The GPU server's process, sockets, memory and threads, without a GPU: the work stands aside."""

from __future__ import annotations

import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from handlers.errors import Unprocessable
from handlers.gpu.server import client, starting, wire
from handlers.gpu.server.client import Client
from handlers.gpu.server.pipeline import SharedPipeline
from handlers.gpu.server.queues import IN_FLIGHT
from handlers.images import Item, Picture
from handlers.letterbox import Letterbox
from handlers.parameters import Limits
from handlers.stages import Stages
from tests.support import gpu_server_program as program
from tests.support.gpu_server import SLOT, Worker, numbers, running, words


def test_every_worker_gets_its_own_answers(address: starting.Address, worker: Worker) -> None:
    def work(first: int) -> None:
        mine = worker()
        for begin in range(first, first + 2000, 40):
            count = 1 + begin % 37
            found = mine.ask(words(*range(begin, begin + count)))
            assert numbers(found) == [[n] for n in range(begin, begin + count)]
            assert [p.left for p in found.letterboxes] == list(range(begin, begin + count))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, n) for n in (1, 10_000, 20_000, 30_000)]:
            done.result()
    assert len(running(address.path.parents[1])) == 1


def test_pictures_of_several_workers_share_a_batch(
    address: starting.Address, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(program.SLOW, "0.1")
    workers = [worker() for _ in range(12)]
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(w.ask, words(n)) for n, w in enumerate(workers, 1)]
        found = [a.result() for a in asked]
    assert [numbers(f) for f in found] == [[[n]] for n in range(1, 13)]
    assert max(f.stages["infer"] for f in found) > 2


def test_a_picture_decoded_by_the_worker_comes_as_pixels(
    address: starting.Address, worker: Worker
) -> None:
    pixels = np.full((40, 50, 3), 3, np.uint8)
    pixels[20, 20] = 77
    item = Item(100, 200, Picture(pixels[::2, ::-1], 100, 200), b"a PNG")
    found = worker().ask([item, *words(5)])
    assert numbers(found) == [[77], [5]]


def test_memory_grows_with_the_pictures_and_is_let_go(
    address: starting.Address, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "KEPT_BYTES", 3 << 20)
    mine = worker()
    for size in (10, 1 << 20, 9 << 20, 10):
        padded = [Item(1, 1, None, str(n).encode().ljust(size)) for n in (8, 9)]
        assert numbers(mine.ask(padded)) == [[8], [9]]
        assert mine._arena is not None
        assert mine._arena.size <= 3 * size + 2 * SLOT + (3 << 20)


def test_a_bad_picture_fails_its_own_batch_only(
    address: starting.Address, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(program.SLOW, "0.05")
    workers = [worker() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        given = [words("bad", n) if n == 3 else words(n, n) for n in range(6)]
        asked = [pool.submit(w.ask, g) for w, g in zip(workers, given, strict=True)]
        for n, answer in enumerate(asked):
            if n == 3:
                with pytest.raises(RuntimeError, match=r"^not a JPEG$"):
                    answer.result()
            else:
                assert numbers(answer.result()) == [[n], [n]]
    assert numbers(workers[3].ask(words(4))) == [[4]]


def test_what_is_not_the_protocol_closes_the_connection_only(
    address: starting.Address, worker: Worker
) -> None:
    mine = worker()
    for message in ({"number": 1}, {"pictures": [[0, 5, 1, 1, None]], "number": 1, "every": False}):
        connection, _ = address.connect()
        wire.send(connection, message)
        with pytest.raises(wire.Gone):
            wire.receive(connection)
        connection.close()
    connection, _ = address.connect()
    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(wire.Gone):
        wire.receive(connection)
    connection.close()
    assert numbers(mine.ask(words(1))) == [[1]]


@pytest.mark.parametrize("piece", [1, 3, 5, 1 << 16, 1 << 20])
def test_a_message_comes_whole_from_any_pieces_and_alone(piece: int) -> None:
    message = {"number": 7, "pictures": "x" * (100 if piece < 10 else 3 * wire.AT_ONCE)}
    mine, other = socket.socketpair()
    for end in (mine, other):
        end.settimeout(10)
    with mine, other, ThreadPoolExecutor(1) as pool:
        wire.send(mine, {"number": 1})
        assert wire.receive(other) == ({"number": 1}, None)
        body = json.dumps(message).encode()
        whole = wire.LENGTH.pack(len(body)) + body
        found = pool.submit(wire.receive, other)
        for begin in range(0, len(whole), piece):
            mine.sendall(whole[begin : begin + piece])
            time.sleep(0.001 if piece < 10 else 0)
        assert found.result() == (message, None)
        mine.sendall(wire.LENGTH.pack(2) + b"{}" + wire.LENGTH.pack(2))
        with pytest.raises(wire.Gone, match="two messages"):
            wire.receive(other)


@pytest.mark.parametrize(("rest", "fits"), [(b"}", True), (b"?", False), (b"", False)])
def test_memory_that_comes_with_half_a_message_is_kept_or_closed(rest: bytes, fits: bool) -> None:
    def held() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    mine, other = socket.socketpair()
    mine.settimeout(10)
    other.settimeout(10)
    with mine, other:
        fd = wire.file_in_memory(10)
        before = held()
        half = wire.LENGTH.pack(8) + b'{"a": 1'
        socket.send_fds(mine, [half], [fd])
        mine.sendall(rest)
        mine.shutdown(socket.SHUT_WR)
        if fits:
            message, got = wire.receive(other)
            assert message == {"a": 1}
            assert got is not None
            assert held() == before + 1
            os.close(got)
        else:
            with pytest.raises(wire.Gone):
                wire.receive(other)
        assert held() == before
        os.close(fd)


def test_boxes_are_suppressed_by_the_worker(address: starting.Address, worker: Worker) -> None:
    passport: Any = SimpleNamespace(settings=program.SETTINGS)
    stages = Stages()
    pipeline = SharedPipeline(worker(), passport, stages)
    (boxes, lies), (other, _) = pipeline.boxes(words(30, 40))
    assert lies == Letterbox(0.5, 0.5, 30, 7)
    np.testing.assert_allclose(boxes, [[30, 30, 40, 40, 0.9, 0]])
    assert other[0, 0] == 40
    assert stages._ms["infer"] > 0
    assert stages._ms["gpu_server"] >= 0
    (boxes, _), (other, _) = pipeline.boxes(words("crowd", 40))
    assert len(boxes) == len(other) == 3  # all of them, which the server suppresses
    (one,) = (item._replace(limits=Limits(0.25, 0.1, 300)) for item in words("crowd"))
    with pytest.raises(Unprocessable, match="iou came with a picture of more than 512 candidates"):
        pipeline.boxes([one])


@pytest.mark.parametrize("word", ["fails to start", "fails to finish"])
def test_what_fails_on_the_gpu_leaves_room_for_the_next(worker: Worker, word: str) -> None:
    mine = worker()
    for n in range(2 * IN_FLIGHT):
        with pytest.raises(RuntimeError, match=r"out of memory|no answer"):
            mine.ask(words(word))
        assert numbers(mine.ask(words(n))) == [[n]]


def test_crowds_and_others_are_never_in_one_batch(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(program.SLOW, "0.02")
    workers = [worker() for _ in range(6)]

    def work(mine: Client, every: bool) -> None:
        for n in range(10):
            rows = mine.ask(words(n, n + 1), every).rows
            assert [len(r) for r in rows] == [3 if every else 1] * 2

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, w, n % 2 == 0) for n, w in enumerate(workers)]:
            done.result()


def test_a_workers_memory_goes_with_it(worker: Worker) -> None:
    mine, other = worker(), worker()
    mine.ask(words(1))
    other.ask(words(2))
    maps = Path(f"/proc/{mine.greeting['pid']}/maps")
    assert maps.read_text().count("memfd:pictures") == 2
    other.close()
    limit = time.monotonic() + 10
    while maps.read_text().count("memfd:pictures") > 1:
        assert time.monotonic() < limit
        mine.ask(words(3))


def test_memory_of_the_usual_size_is_used_again(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "KEPT_BYTES", 3 << 20)
    mine = worker()
    large = [Item(1, 1, None, b"5".ljust(5 << 19))]
    assert numbers(mine.ask(large)) == [[5]]
    before = mine._arena
    assert numbers(mine.ask(large)) == [[5]]
    assert mine._arena is before


def test_a_question_that_was_not_sent_leaves_no_memory_behind(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = worker()
    assert numbers(mine.ask(words(1))) == [[1]]

    def no_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(wire, "send", no_memory)
        mine.ask([Item(1, 1, None, b"2".ljust(9 << 20))])
    assert numbers(mine.ask(words(3, 4))) == [[3], [4]]


def test_a_worker_that_stands_still_holds_up_nobody(
    address: starting.Address, worker: Worker
) -> None:
    mine = worker()
    half, _ = address.connect()
    half.sendall(b"\0")
    before = mine.greeting["pid"]
    assert numbers(mine.ask(words(1))) == [[1]]
    assert mine.greeting["pid"] == before  # not ended for being late
    half.close()
