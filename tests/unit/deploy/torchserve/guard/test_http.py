from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.torchserve.guard.http import Chunks, Refusal, query_handed_on, read_head

GOOD = b"POST /predictions/fd1?x=1 HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\n"


def test_a_head_goes_on_without_what_belongs_to_the_connection() -> None:
    more = b"Connection: keep-alive\r\nExpect: 100-continue\r\nX-A: b c \r\nContent-Length: 7"
    head = read_head(GOOD + more)
    assert (head.length, head.keeps, head.expects) == (7, True, True)
    assert head.path == [b"predictions", b"fd1"]
    assert head.onward(7) == (
        b"POST /predictions/fd1?x=1 HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\n"
        b"X-A: b c\r\nContent-Length: 7\r\n\r\n"
    )


def test_a_query_string_goes_on_as_a_header() -> None:
    head = query_handed_on(read_head(GOOD + b"Content-Length: 7"))
    assert head.onward(7) == (
        b"POST /predictions/fd1 HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\n"
        b"x-parameters: x=1\r\nContent-Length: 7\r\n\r\n"
    )
    for line in (b"GET /ping?a=1 HTTP/1.1", b"POST /predictions/fd1 HTTP/1.1"):
        assert query_handed_on(read_head(line)) == read_head(line)
    for line, says in (
        (b"POST /v1/models/a:predict?conf=1 HTTP/1.1", "'conf=1' came to /v1, which has none: a"),
        (b"POST /v2/models/a/infer?conf=1 HTTP/1.1", "settings are its parameters"),
        (GOOD + b"x-Parameters: conf=1", "'x=1' came beside X-Parameters"),
    ):
        with pytest.raises(Refusal, match=says):
            query_handed_on(read_head(line))


def test_chunks_become_a_length() -> None:
    head = read_head(GOOD + b"Transfer-Encoding: chunked")
    assert head.length is None
    assert b"chunked" not in head.onward(3)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"GET / HTTP/2.0", 400),
        (b"get / HTTP/1.1", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nno colon", 400),
        (b"GET / HTTP/1.1\r\nA : b", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded", 400),
        (b"GET / HTTP/1.1\r\nA: b\nB: c", 400),
        (b"GET / HTTP/1.1\r\nA: \x00", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: +1", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked", 501),
        (b"POST / HTTP/1.1\r\nExpect: gold", 417),
        (b"POST / HTTP/1.1\r\nContent-Type: a\r\ncontent-type: b", 400),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        read_head(data)
    assert caught.value.status == status
    head, _, body = caught.value.answer().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Length: %d" % len(body) in head
    assert json.loads(body)["message"] == str(caught.value)


@given(st.binary(max_size=300))
def test_no_bytes_crash_it(data: bytes) -> None:
    with contextlib.suppress(Refusal):
        read_head(data)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=9), st.data())
def test_a_chunked_body_in_any_pieces(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(b"%x;a=b\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\nT: x\r\n\r\nnext"
    chunks, found = Chunks(), b""
    while whole:
        n = data.draw(st.integers(1, len(whole)))
        found += b"".join(chunks.feed(whole[:n]))
        whole = whole[n:]
        if chunks.rest is not None:
            break
    assert found == b"".join(parts)
    assert chunks.rest is not None
    assert chunks.rest + whole == b"next"


@pytest.mark.parametrize("data", [b"zz\r\n", b"-1\r\n", b"2\r\nabc\r\n", b"1" * 300, b"\r\n\r\n"])
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    with pytest.raises(Refusal):
        list(Chunks().feed(data))


def test_many_small_chunks_are_refused_and_large_ones_are_not() -> None:
    with pytest.raises(Refusal, match="under 512 bytes"):
        list(Chunks().feed(b"1\r\na\r\n" * 1100))
    assert sum(map(len, Chunks().feed((b"400\r\n" + bytes(1024) + b"\r\n") * 1100))) == 1100 << 10
    list(Chunks(any_size=True).feed(b"1\r\na\r\n" * 1100))
