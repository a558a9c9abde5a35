"""What the guard answers itself, and what goes on to TorchServe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.openapi import path_item
from tests.support.archives import RECORD
from tests.support.guard_stage import Stage, run

PATHS = {"fd1": path_item(RECORD)}


def request(method: str, path: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize("path", ["/", "/try.js", "/try.css", "/icon.svg", "/openapi.json"])
def test_pages_are_given_without_asking_torchserve_under_a_strict_policy(
    tmp_path: Path, path: str
) -> None:
    async def scene() -> None:
        async with Stage(tmp_path, paths=PATHS) as stage:
            got = await stage.ask(request("GET", path))
            head, _, body = got.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"content-security-policy: default-src 'none'; script-src 'self'" in head
            assert body and b"unsafe" not in head
            reader, writer = await stage.connect()
            writer.write(request("HEAD", path))
            assert await reader.read() == head + b"\r\n\r\n"
            writer.close()
            assert stage.asked == 0

    run(scene())


@pytest.mark.parametrize("asked", [("POST", "/"), ("GET", "/ping"), ("OPTIONS", "/")])
def test_all_else_is_torchserves(tmp_path: Path, asked: tuple[str, str]) -> None:
    async def scene() -> None:
        async with Stage(tmp_path, paths=PATHS) as stage:
            await stage.ask(request(*asked))
            assert stage.asked == 1

    run(scene())


def test_openapi_says_whether_a_token_is_wanted(tmp_path: Path) -> None:
    async def scene() -> None:
        for tokens in (False, True):
            async with Stage(tmp_path, paths=PATHS, tokens=tokens) as stage:
                got = await stage.ask(request("GET", "/openapi.json"))
                told = json.loads(got.partition(b"\r\n\r\n")[2])
                assert list(told["paths"]) == ["/predictions/fd1"]
                assert ("security" in told) == tokens
            (tmp_path / "s").unlink(missing_ok=True)

    run(scene())
