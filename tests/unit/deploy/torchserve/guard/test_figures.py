"""The page of figures: TorchServe's own, versions as clients ask for them, and what was refused."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from deploy.kserve.models import ANSWERED, BODY, Model
from deploy.torchserve.guard import figures, http
from deploy.torchserve.guard.counts import Counts
from tests.support.guard_stage import Stage, after, question, run, whole

ITEMS = 'handler_items{ModelName="fd1",Level="Model",Outcome="ok",} 3.0\n'
REQUESTS = 'ts_inference_requests_total{{model_name="{}",model_version="{}",hostname="a",}} {}\n'
SLOTS = {"fd1": {"2.0": "~1", "1.0": "1.0"}, "b": {"1.0": "~2"}}


def test_versions_are_those_that_are_asked() -> None:
    told = [("fd1", "1.0", 5.0), ("fd1", "~1", 7.0), ("b", "1.0", 1.0), ("b", "~2", 2.5),
            ("b", "~1", 4.0), ("c", "~1", 1.0)]  # fmt: skip
    page = "# TYPE a counter\n" + ITEMS + "".join(REQUESTS.format(*row) for row in told)
    want = [("fd1", "1.0", 5.0), ("fd1", "2.0", 7.0), ("b", "1.0", 3.5), ("b", "~1", 4.0),
            ("c", "~1", 1.0)]  # fmt: skip
    assert figures.by_version(page, SLOTS) == "# TYPE a counter\n" + ITEMS + "".join(
        REQUESTS.format(*row) for row in want
    )


def test_processes_count_together() -> None:
    counts = Counts(3)
    counts.add("slow")
    for number in (1, 2):
        if (child := os.fork()) == 0:
            counts.process = number
            counts.add("slow")
            counts.add("queue_full")
            os._exit(0)
        os.waitpid(child, 0)
    found = {reason: n for reason, n in counts.total().items() if n}
    assert found == {"slow": 3, "queue_full": 2}


def test_every_status_has_a_reason_and_none_another() -> None:
    assert {http.Refusal(status, "").reason for status in http.PHRASES} <= set(http.REASONS)
    with pytest.raises(ValueError, match="tuple"):
        Counts().add("whatever")


async def read(address: tuple[str, int], target: str) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


def test_what_was_refused_is_on_torchserves_page(tmp_path: Path) -> None:
    heard = []

    async def behind(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        page = (ITEMS + REQUESTS.format("fd1", "~1", 7.0)).encode()
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(page), page)
        with suppress(asyncio.IncompleteReadError):  # the connection stays, as TorchServe's does
            while True:
                heard.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1])
                writer.write(answer)
        writer.close()

    async def scene() -> None:
        socket = str(tmp_path / "m")
        given: dict[str, object] = {
            "metrics": ("127.0.0.1", 0), "metrics_socket": socket, "versions": SLOTS,
            "described": {"fd1": asdict(Model("fd1", "2.0", False, (BODY,), ANSWERED))},
        }  # fmt: skip
        gate = asyncio.Event()
        async with Stage(tmp_path, after(gate), **given) as stage:
            listening = await figures.serve(stage.house)
            address = listening.sockets[0].getsockname()
            assert (await read(address, "/metrics")).startswith(b"HTTP/1.1 503 ")
            server = await asyncio.start_unix_server(behind, socket)

            assert b" 400 " in await stage.ask(b"nonsense\r\n\r\n")
            assert b" 404 " in await stage.ask(question(b"a", model="fd1/3.0"))
            assert b" 413 " in await stage.ask(question(b"a" * (1 << 20 | 1)))
            body = json.dumps({"inputs": []}).encode()
            v2 = b"POST /v2/models/%s/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s"
            assert b" 400 " in await stage.ask(v2 % (b"fd1", len(body), body))
            assert b" 404 " in await stage.ask(v2 % (b"none", len(body), body))
            asked = [await stage.connect() for _ in range(6)]  # two in work, three wait
            for _, writer in asked:
                writer.write(question(b"a"))
            await asyncio.sleep(0.05)
            gate.set()
            answers = [await whole(reader) for reader, _ in asked]
            assert sum(answer.startswith(b"HTTP/1.1 503") for answer in answers) == 1
            for _, writer in asked:
                writer.close()

            head, _, page = (await read(address, "/metrics?name[]=a")).partition(b"\r\n\r\n")
            assert heard == [b"/metrics?name[]=a"]
            assert f"content-length: {len(page)}".encode() in head
            shown = page.decode()
            assert shown.startswith(ITEMS + REQUESTS.format("fd1", "2.0", 7.0))
            for reason, count in {
                "malformed": 2, "unknown": 2, "too_large": 1, "queue_full": 1, "slow": 0
            }.items():  # fmt: skip
                assert f'guard_refusals{{Reason="{reason}"}} {count}\n' in shown
            assert b"guard_refusals" not in await read(address, "/other")
            for each in (listening, server):
                each.close()

    run(scene())
