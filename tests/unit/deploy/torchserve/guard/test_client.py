"""What the guard takes, keeps waiting and refuses."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.torchserve.guard import limits
from deploy.torchserve.guard.client import Client
from tests.support.guard_stage import Stage, after, echo, question, run, whole


def test_one_connection_carries_many_requests_also_sent_ahead(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Stage(tmp_path) as stage:
            reader, writer = await stage.connect()
            for size in (0, 1, 5000, 900_000):
                writer.write(question(bytes(size)))
                assert (await whole(reader)).endswith(b"\r\n\r\n%d" % size)
            writer.write(question(b"ab") + question(b"abc") + b"\r\n" + question(b"abcd"))
            heard = [(await whole(reader))[-1:] for _ in range(3)]
            assert heard == [b"2", b"3", b"4"]
            assert stage.connections == 1
            assert stage.house.held == 0
            writer.close()

    run(scene())


@pytest.mark.parametrize("traced", [False, True])
def test_a_traced_request_says_when_it_had_come_whatever_its_client_says(
    tmp_path: Path, traced: bool
) -> None:
    heads = []

    async def keep(request: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(request.partition(b"\r\n\r\n")[0])
        await echo(request, writer)

    async def scene() -> None:
        async with Stage(tmp_path, keep, traced=traced) as stage:
            begin = time.time_ns()
            more = "X-Received-Ns: 5\r\ntraceparent: 00-a-b-01\r\n"
            assert await stage.ask(question(b"abc", more if traced else more[18:]))
            found = re.findall(rb"(?i)x-received-ns: (\d+)", heads[0])
            assert b"traceparent: 00-a-b-01" in heads[0]
            assert len(found) == traced
            assert all(begin < int(when) < time.time_ns() for when in found)

    run(scene())


def test_continue_chunks_and_close(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Stage(tmp_path) as stage:
            reader, writer = await stage.connect()
            writer.write(
                b"PUT /predictions/fd1 HTTP/1.1\r\nExpect: 100-continue\r\n"
                b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            )
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"3\r\nabc\r\n")
            await asyncio.sleep(0.01)
            writer.write(b"2\r\nde\r\n0\r\n\r\n")
            answer = await reader.read()
            assert answer.endswith(b"connection: close\r\n\r\n5")
            assert b"keep-alive" not in answer
            writer.close()

    run(scene())


def test_a_version_is_asked_by_its_name_in_the_server_and_no_other_is(tmp_path: Path) -> None:
    async def said(request: bytes, writer: asyncio.StreamWriter) -> None:
        target = request.split(b" ")[1]
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(target), target))

    async def scene() -> None:
        async with Stage(tmp_path, said, versions={"fd1": {"1.0": "1.0", "2.0": "~1"}}) as stage:
            for asked, target in {
                "fd1": "fd1", "fd1/1.0": "fd1/1.0", "fd1/2.0": "fd1/~1", "other/2.0": "other/2.0",
            }.items():  # fmt: skip
                answer = await stage.ask(question(b"", model=asked))
                assert answer.endswith(f"\r\n\r\n/predictions/{target}".encode()), asked
            for asked in ("fd1/~1", "fd1/%7e1", "fd1/3.0", "fd1/~1/x", "fd1//~1"):
                answer = await stage.ask(question(b"", model=asked))
                assert answer.startswith(b"HTTP/1.1 404 "), asked
                assert answer.endswith(b'of fd1; served: 1.0, 2.0"}'), asked
            assert stage.house.turns[b"fd1"].running == 0

    run(scene())


def test_a_change_of_versions_waits_for_what_was_asked_before(tmp_path: Path) -> None:
    async def scene() -> None:
        gate = asyncio.Event()
        async with Stage(tmp_path, after(gate), versions={"fd1": {"1.0": "1.0"}}) as stage:
            before = asyncio.ensure_future(stage.ask(question(b"a", model="fd1/1.0")))
            await asyncio.sleep(0.05)
            stage.house.change(replace(stage.given, versions={"fd1": {"2.0": "~1"}}))
            later = asyncio.ensure_future(stage.ask(question(b"ab", model="fd1/2.0")))
            gone = await stage.ask(question(b"abc", model="fd1/1.0"))
            assert gone.startswith(b"HTTP/1.1 404 ")
            assert not stage.house.changed
            gate.set()
            assert [(await one)[-1:] for one in (before, later)] == [b"1", b"2"]
            assert stage.house.changed

    run(scene())


def test_a_request_is_asked_only_when_it_is_complete(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Stage(tmp_path) as stage:
            reader, writer = await stage.connect()
            writer.write(question(bytes(100))[:-1])
            await asyncio.sleep(0.05)
            assert stage.connections == 0
            writer.write(b"\0")
            assert (await whole(reader)).endswith(b"100")
            writer.close()

    run(scene())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (question(bytes((1 << 20) + 1)), 413),
        (question(b"{" * 1001, "Content-Type: Application/JSON ;x\r\n"), 413),
        (
            b"PUT /predictions/fd1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFF\r\n"
            + bytes(1 << 21),
            413,
        ),
        (question(b"a&" * 65, "Content-Type: application/x-www-form-urlencoded\r\n"), 413),
        (
            question(
                b"--b\r\nContent-Type: application/json\r\n\r\n" + b"{" * 5000 + b"\r\n--b--",
                "Content-Type: multipart/form-data; boundary=b\r\n",
            ),
            413,
        ),
        (
            question(
                b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n",
                "Content-Type: multipart/form-data; boundary=b\r\n",
            ),
            415,
        ),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"PUT / HTTP/1.1\r\nExpect: gold\r\n\r\n", 417),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 9000, 431),
    ],
)  # fmt: skip
def test_what_is_refused_never_gets_there(tmp_path: Path, request_: bytes, status: int) -> None:
    async def scene() -> None:
        async with Stage(tmp_path) as stage:
            answer = await stage.ask(request_)
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer
            assert stage.connections == 0
            assert stage.house.held == 0
            assert (await stage.ask(question(b"ab"))).endswith(b"2")

    run(scene())


def test_two_are_in_work_three_wait_and_the_next_is_refused(tmp_path: Path) -> None:
    async def scene() -> None:
        gate = asyncio.Event()
        async with Stage(tmp_path, after(gate)) as stage:
            tasks = [asyncio.ensure_future(stage.ask(question(b"a"))) for _ in range(5)]
            await asyncio.sleep(0.05)
            assert stage.asked == 2
            assert (await stage.ask(question(b"a"))).startswith(b"HTTP/1.1 503 ")
            gate.set()
            assert all(a.startswith(b"HTTP/1.1 200 ") for a in await asyncio.gather(*tasks))
            assert stage.house.turns[b"fd1"].running == 0

    run(scene())


def test_who_leaves_is_not_asked_for_and_gives_its_turn_back(tmp_path: Path) -> None:
    async def scene() -> None:
        gate = asyncio.Event()
        async with Stage(tmp_path, after(gate)) as stage:
            for _ in range(5):
                _, writer = await stage.connect()
                writer.write(question(b"a"))
                await asyncio.sleep(0.01)
                writer.close()
            await asyncio.sleep(0.05)
            task = asyncio.ensure_future(stage.ask(question(b"a")))
            await asyncio.sleep(0.05)
            assert stage.asked == 2
            gate.set()
            assert (await task).endswith(b"1")
            assert stage.asked == 3
            assert stage.house.turns[b"fd1"].running == 0
            assert stage.house.held == 0

    run(scene())


def test_a_server_that_ends_before_it_answers(tmp_path: Path) -> None:
    async def scene() -> None:
        async def leave(request: bytes, writer: asyncio.StreamWriter) -> None:
            if b"half" in request:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhal")
            writer.close()

        async with Stage(tmp_path, leave) as stage:
            assert (await stage.ask(question(b"a"))).startswith(b"HTTP/1.1 502 ")
            assert await stage.ask(question(b"half")) == b""
            assert stage.house.turns[b"fd1"].running == 0
        Path(stage.given.socket).unlink(missing_ok=True)
        stage = Stage(tmp_path)
        async with stage:
            stage.house.pool.socket += "gone"
            assert b"does not take requests yet" in await stage.ask(question(b"a"))
            assert stage.house.turns[b"fd1"].running == 0

    run(scene())


@pytest.mark.parametrize("start", [b"P", b"PUT /", question(bytes(50))[:-9], b""])
def test_what_stops_in_the_middle_is_ended(
    tmp_path: Path, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEAD_S", "STALL_S", "IDLE_S"):
        monkeypatch.setattr(limits, name, 0.1)

    async def scene() -> None:
        async with Stage(tmp_path) as stage:
            reader, writer = await stage.connect()
            writer.write(start)
            heard = await reader.read()
            assert heard[:13] == (b"HTTP/1.1 408 " if start else b"")
            assert stage.house.held == 0
            writer.close()

    run(scene())


def test_one_that_is_ended_just_as_it_was_reset(tmp_path: Path) -> None:
    """The kernel then says that the socket is not connected; no other client may hear of it."""

    class Reset:
        def __init__(self, transport: asyncio.Transport):
            self._transport = transport

        def __getattr__(self, name: str) -> object:
            return getattr(self._transport, name)

        def write_eof(self) -> None:
            raise OSError(107, "Transport endpoint is not connected")

    async def scene() -> None:
        async with Stage(tmp_path) as stage:
            _, writer = await stage.connect()
            writer.write(question(bytes(50))[:-9])
            while not stage.house.held:
                await asyncio.sleep(0.01)
            (guest,) = stage.house.guests
            assert isinstance(guest, Client)
            guest._transport = Reset(guest._transport)
            guest.check(asyncio.get_running_loop().time() + 100)
            await asyncio.sleep(0.02)
            assert not stage.house.guests
            assert stage.house.held == 0
            writer.close()

    run(scene())


def test_the_slowest_upload_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "YOUNG_S", 0.05)

    async def scene() -> None:
        async with Stage(tmp_path, held=100_000) as stage:
            slow, slower = await stage.connect(), await stage.connect()
            slow[1].write(question(bytes(60_000))[:40_000])
            slower[1].write(question(bytes(60_000))[:30_000])
            await asyncio.sleep(0.1)
            assert (await stage.ask(question(bytes(50_000)))).endswith(b"50000")
            assert (await slower[0].read()).startswith(b"HTTP/1.1 503 ")
            slow[1].write(bytes(60_000))
            assert (await whole(slow[0])).endswith(b"60000")
            for _, writer in (slow, slower):
                writer.close()

    run(scene())


def test_the_oldest_idle_connection_makes_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "YOUNG_S", 0.05)

    async def scene() -> None:
        async with Stage(tmp_path) as stage:
            many = [await stage.connect() for _ in range(10)]
            await asyncio.sleep(0.1)
            many[0][1].write(question(b"ab"))
            await whole(many[0][0])
            assert (await stage.ask(question(b"abc"))).endswith(b"3")
            assert await many[1][0].read() == b""
            many[0][1].write(question(b"abcd"))
            assert (await whole(many[0][0])).endswith(b"4")
            for _, writer in many:
                writer.close()

    run(scene())


def test_who_does_not_take_its_answer_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_S", 0.1)
    monkeypatch.setattr(limits, "RATE", 1 << 30)

    async def scene() -> None:
        async def much(request: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (64 << 20))
            writer.write(bytes(64 << 20))

        async with Stage(tmp_path, much) as stage:
            reader, writer = await stage.connect()
            writer.write(question(b"a"))
            while not stage.house.asked:
                await asyncio.sleep(0.01)
            while stage.house.guests or stage.house.asked:
                await asyncio.sleep(0.01)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.readexactly(64 << 20)
            writer.close()

    run(scene())
