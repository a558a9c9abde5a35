"""The HTTP client against real sockets whose other end answers as it is told."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from handlers.errors import KitError
from qpstest.http_answer import AnswerReader
from qpstest.http_api import HttpSession, HttpTarget, Judge, Plain, split_url
from repack.tasks.segmentation.load_test import GZIP, SegmentationLoadTest
from tests.support import volumes

GOOD = b'{"detections": []}'
Peer = Callable[[socket.socket], None]


def answer(body: bytes = GOOD, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("the client closed")
        data += more
    head, body = data.split(b"\r\n\r\n", 1)
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    parts = [head, b"\r\n\r\n", body]
    while (missing := length + len(parts[0]) + 4 - sum(map(len, parts))) > 0:
        parts.append(connection.recv(min(missing, 1 << 20)))
    return b"".join(parts)


@contextmanager
def peer(behave: Peer) -> Iterator[str]:
    """The address of a listener that gives each connection to ``behave``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        behave(connection)
                    except OSError:
                        """The client left, which some tests want."""

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@contextmanager
def session(url: str, body: bytes = b"picture", **more: object) -> Iterator[HttpSession]:
    given = {"timeout": 5.0, **more}
    opened = HttpSession(HttpTarget(url, Plain("/predictions/fd%201"), [body], **given))  # type: ignore[arg-type]
    yield opened
    opened.close()


def always(reply: bytes) -> Peer:
    def behave(connection: socket.socket) -> None:
        while True:
            read_request(connection)
            connection.sendall(reply)

    return behave


def test_request_and_answer_on_one_connection() -> None:
    seen: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        for _ in range(3):
            seen.append(read_request(connection))
            connection.sendall(answer())

    with peer(behave) as url, session(url, token="secret") as s:  # noqa: S106
        replies = [s.call(i) for i in range(3)]
    assert [r.kind for r in replies] == ["", "", ""]
    assert replies[0].answer == GOOD
    assert len(seen) == 3
    assert seen[0].startswith(b"POST /predictions/fd%201 HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret\r\n" in seen[0]
    assert seen[0].endswith(b"\r\n\r\npicture")


def test_large_body_and_slow_answer_are_timed_apart() -> None:
    body = bytes(20_000_000)

    def behave(connection: socket.socket) -> None:
        time.sleep(0.1)
        assert len(read_request(connection)) > len(body)
        time.sleep(0.2)
        reply = answer()
        connection.sendall(reply[:20])
        time.sleep(0.3)
        connection.sendall(reply[20:])

    with peer(behave) as url, session(url, body) as s:
        reply = s.call(0)
    assert reply.kind == ""
    assert reply.send >= 0.09
    assert reply.wait >= 0.19
    assert reply.receive >= 0.29


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_answer_in_pieces(size: int) -> None:
    body = json.dumps({"detections": list(range(500))}).encode()

    def behave(connection: socket.socket) -> None:
        read_request(connection)
        reply = answer(body)
        for i in range(0, len(reply), size):
            connection.sendall(reply[i : i + size])

    with peer(behave) as url, session(url) as s:
        assert s.call(0).answer == body


def test_chunked_answer() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = head + b"5;x=y\r\n[1, 2\r\n4\r\n, 3]\r\n0\r\n\r\n"
    with peer(always(reply)) as url, session(url) as s:
        assert [s.call(i).answer for i in range(2)] == [b"[1, 2, 3]", b"[1, 2, 3]"]


QUEUE_FULL = json.dumps({"code": 503, "type": "ServiceUnavailableException", "message": "no\nway"})
HANDLER_FAILED = json.dumps({"code": 503, "type": "InternalServerException", "message": "failed"})
NO_PICTURE = json.dumps({"code": 400, "type": "BadInput", "message": "no picture\nat all"})


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (answer(b"half a js"), "wrong_answer", "not JSON"),
        (answer(b""), "wrong_answer", "not JSON"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "wrong_answer", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "wrong_answer", "without Content-Length"),
        (answer(QUEUE_FULL.encode(), "503 Unavailable"), "overload", "ServiceUnavail.*: no$"),
        (answer(HANDLER_FAILED.encode(), "503 Unavailable"), "503", "failed"),
        (answer(NO_PICTURE.encode(), "400 Bad"), "400", "BadInput: no picture$"),
        (answer(b"<html>", "502 Bad Gateway"), "502", "<html>"),
    ],
)
def test_kinds_of_failure(reply: bytes, kind: str, message: str) -> None:
    with peer(always(reply)) as url, session(url) as s:
        found = s.call(0)
    assert found.kind == kind
    assert re.search(message, found.message)


def test_media_type_is_checked_where_another_was_asked_for() -> None:
    picture = answer(b"\xff\xd8", more="Content-Type: image/jpeg; q=1\r\n")
    with peer(always(picture)) as url, session(url, accept="image/jpeg") as s:
        assert s.call(0).kind == ""
    with peer(always(answer())) as url, session(url, accept="image/jpeg") as s:
        assert s.call(0).message == "image/jpeg was asked for, no type came"


def test_server_closes_after_a_refusal_and_the_next_request_connects_anew() -> None:
    connections: list[int] = []

    def behave(connection: socket.socket) -> None:
        connections.append(1)
        read_request(connection)
        connection.sendall(answer(b"{}", "400 Bad", "Connection: close\r\n"))

    with peer(behave) as url, session(url) as s:
        assert [s.call(i).kind for i in range(3)] == ["400", "400", "400"]
    assert len(connections) == 3


def test_refusal_of_a_body_that_is_still_being_sent() -> None:
    def behave(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(answer(b'{"message": "too large"}', "413 Too Large"))
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.3)

    with peer(behave) as url, session(url, bytes(20_000_000)) as s:
        assert s.call(0).kind in {"413", "reset"}


def test_reset() -> None:
    with peer(lambda connection: None) as url, session(url) as s:
        assert s.call(0).kind == "reset"

    def half(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answer()[:-5])

    with peer(half) as url, session(url) as s:
        assert s.call(0).kind == "reset"


def test_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with session(f"http://127.0.0.1:{port}") as s:
        assert s.call(0).kind == "refused"


def test_timeout_before_and_within_the_answer() -> None:
    def silent(connection: socket.socket) -> None:
        connection.settimeout(2)
        while connection.recv(65536):
            pass

    def dripping(connection: socket.socket) -> None:
        read_request(connection)
        for byte in answer(bytes(1000)):
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    for behave in (silent, dripping):
        with peer(behave) as url, session(url, timeout=0.4) as s:
            began = time.perf_counter()
            assert s.call(0).kind == "timeout"
            assert 0.3 < time.perf_counter() - began < 1.5


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8080", (False, "localhost", 8080)),
        ("127.0.0.1:9", (False, "127.0.0.1", 9)),
        ("https://example.org", (True, "example.org", 443)),
        ("http://[::1]:8080", (False, "::1", 8080)),
    ],
)
def test_addresses(url: str, expected: tuple[bool, str, int]) -> None:
    assert split_url(url) == expected


@pytest.mark.parametrize("url", ["ftp://a:1", "http://", "http://a:99999", "http://a:b", ""])
def test_no_addresses(url: str) -> None:
    with pytest.raises(KitError, match="http://host:port was expected"):
        split_url(url)


def test_a_wrong_mask_is_counted_by_the_task() -> None:
    voxels = np.zeros((12, 20, 16), np.uint8)
    scan, mask = volumes.nifti(volumes.scan(voxels.shape)), volumes.nifti(voxels)
    wire = Plain("/predictions/m")
    judge = Judge(
        HttpTarget("http://127.0.0.1:1", wire, [scan], 1.0, None, GZIP, SegmentationLoadTest())
    )

    def found(body: bytes, kind: str = "application/gzip") -> str:
        reader = AnswerReader()
        assert reader.feed(answer(body, more=f"Content-Type: {kind}\r\n"))
        return judge.reply(0, reader).message

    assert found(mask) == ""
    assert "another grid" in found(volumes.nifti(voxels[1:]))
    json_type = "application/json"
    assert found(mask[:-1], json_type) == f"application/gzip was asked for, {json_type} came"
