"""The Open Inference Protocol through the guard: turns, memory, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from deploy.kserve.models import ANSWERED, BODY, Model
from deploy.kserve.tensors import Mistake, packed
from deploy.torchserve.guard.asking import hold, read
from tests.support.guard_stage import Stage, after, run, whole

DESCRIBED = {"fd1": asdict(Model("fd1", "1.0", False, (BODY,), ANSWERED))}


def question(*bodies: str) -> bytes:
    entry = {"name": "BODY", "datatype": "BYTES", "shape": [len(bodies), 1], "data": bodies}
    body = json.dumps({"inputs": [entry]}).encode()
    head = f"POST /v2/models/fd1/infer HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def as_it_is(body: bytes, media_type: str) -> bytes:
    """One file in the binary extension, of this type."""
    data = packed([body])
    entry = {
        "name": "BODY", "datatype": "BYTES", "shape": [1, 1],
        "parameters": {"binary_data_size": len(data)},
    }  # fmt: skip
    text = json.dumps({"inputs": [entry], "parameters": {"content-type": media_type}}).encode()
    head = (
        f"POST /v2/models/fd1/infer HTTP/1.1\r\nInference-Header-Content-Length: {len(text)}\r\n"
        f"Content-Length: {len(text) + len(data)}\r\n\r\n"
    )
    return head.encode() + text + data


def told(answer: bytes) -> list[object]:
    """Status of the answer, and what it answers to each item."""
    outputs = json.loads(answer.partition(b"\r\n\r\n")[2]).get("outputs", [{"data": []}])
    return [int(answer[9:12]), *outputs[0]["data"]]


@pytest.mark.parametrize("known", [None, False, True], ids=["a guest", "an older kit's", "reads"])
def test_settings_go_only_to_archives_that_read_them(tmp_path: Path, known: bool | None) -> None:
    model = Model("fd1", "1.0", False, (BODY,), ANSWERED, settings=bool(known))
    described = {} if known is None else {"fd1": asdict(model)}
    head = "POST /predictions/fd1{} HTTP/1.1\r\n{}Content-Length: 1\r\n\r\na"

    async def scene() -> None:
        async with Stage(tmp_path, described=described) as stage:
            for sent in (("?conf=0.5", ""), ("", "X-Parameters: conf=0.5\r\n")):
                answer = await stage.ask(head.format(*sent).encode())
                assert answer.startswith(b"HTTP/1.1 200" if known else b"HTTP/1.1 400"), answer
                assert known or b"settings came, which the archive of fd1 does not read" in answer
            assert (await stage.ask(head.format("", "").encode())).startswith(b"HTTP/1.1 200")

    run(scene())


def test_items_are_predictions_that_wait_for_their_turn(tmp_path: Path) -> None:
    async def scene() -> None:
        gate = asyncio.Event()
        async with Stage(tmp_path, after(gate), described=DESCRIBED) as stage:
            asking = asyncio.ensure_future(stage.ask(question("a", "bb", "ccc", "dddd")))
            await asyncio.sleep(0.05)
            assert stage.asked == 2  # two are in work, two wait
            gate.set()
            assert told(await asking) == [200, "1", "2", "3", "4"]
            assert stage.house.turns[b"fd1"].running == 0
            assert stage.house.held == 0

    run(scene())


def test_more_items_than_may_wait_are_503_and_nothing_is_kept(tmp_path: Path) -> None:
    async def scene() -> None:
        gate = asyncio.Event()
        async with Stage(tmp_path, after(gate), described=DESCRIBED) as stage:
            asked = asyncio.ensure_future(stage.ask(question(*"abcdef")))
            assert told(await asked) == [503]
            gate.set()
            await asyncio.sleep(0.05)
            assert stage.house.turns[b"fd1"].running == 0
            assert told(await stage.ask(question("a"))) == [200, "1"]

    run(scene())


def test_who_leaves_gives_its_turns_back(tmp_path: Path) -> None:
    async def scene() -> None:
        gate = asyncio.Event()
        async with Stage(tmp_path, after(gate), described=DESCRIBED) as stage:
            _, writer = await stage.connect()
            writer.write(question(*"abcd"))
            await asyncio.sleep(0.05)
            writer.close()
            await asyncio.sleep(0.05)
            gate.set()
            await asyncio.sleep(0.05)
            assert stage.asked == 2  # those that waited were never asked
            assert stage.house.turns[b"fd1"].running == 0
            assert stage.house.held == 0

    run(scene())


@pytest.mark.parametrize(
    ("media_type", "body", "status"),
    [
        ("application/x-www-form-urlencoded", "a&" * 65, 413),
        ("Application/JSON; charset=utf-8", "{" * 1001, 413),
        ("multipart/form-data; boundary=b", "--b\r\n\r\n" * 66 + "--b--", 413),
        ("multipart/form-data; boundary=(", "", 400),
        ("application/x-www-form-urlencoded", "a&b", 200),
    ],
)
def test_a_media_type_brings_its_bounds_along(
    tmp_path: Path, media_type: str, body: str, status: int
) -> None:
    """Row 39: a form of many fields holds TorchServe, by whatever protocol it came."""

    async def scene() -> None:
        async with Stage(tmp_path, described=DESCRIBED) as stage:
            (found, *_) = told(await stage.ask(as_it_is(body.encode(), media_type)))
            assert (found, stage.asked) == (status, int(status == 200))

    run(scene())


def test_a_connection_carries_both_protocols(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Stage(tmp_path, described=DESCRIBED) as stage:
            reader, writer = await stage.connect()
            plain = b"PUT /predictions/fd1 HTTP/1.1\r\nContent-Length: 2\r\n\r\nab"
            writer.write(question("abc") + plain + question("abcd", "e"))
            assert told(await whole(reader)) == [200, "3"]
            assert (await whole(reader)).endswith(b"\r\n\r\n2")
            assert told(await whole(reader)) == [200, "4", "1"]
            writer.close()

    run(scene())


def test_an_answer_in_chunks_is_put_together() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A:  b \r\n"
    found = read(head, b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n")
    assert (found.status, found.headers, found.body) == (200, {"x-a": "b"}, b"abcde")


def test_what_grpc_holds_is_counted_among_all_that_is_held(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Stage(tmp_path, held=1000) as stage:
            with hold(stage.house, 600):
                assert stage.house.held == 600
                with pytest.raises(Mistake) as refused, hold(stage.house, 600):
                    pass
                assert refused.value.status == 503
                assert stage.house.held == 600
            assert stage.house.held == 0

    run(scene())
