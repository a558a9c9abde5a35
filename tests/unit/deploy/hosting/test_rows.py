"""Fields of requests, as TorchServe's worker would hand them over."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.hosting.rows import row
from deploy.torchserve.guard.http import Refusal

FORM = "multipart/form-data; boundary=AaB"


def read(body: bytes, media_type: str) -> Any:
    return row(body, media_type, lambda data: None)


@pytest.mark.parametrize(
    ("body", "media_type", "expected"),
    [
        (b"\xff\xd8", "", {"body": b"\xff\xd8"}),
        (b"", "image/jpeg", {"body": b""}),
        (b'{"data": "AA=="}', "application/json; charset=utf-8", {"body": {"data": "AA=="}}),
        (b"[1]", "Application/JSON", {"body": [1]}),
        (b"{not", "application/json", {"body": b"{not"}),
        ("né".encode(), "text/plain", {"body": "né"}),
        (b"\xff", "text/plain", {"body": b"\xff"}),
        (b"a=1%2B&b=", "application/x-www-form-urlencoded", {"a": b"1+", "b": b""}),
    ],
)
def test_bodies(body: bytes, media_type: str, expected: Any) -> None:
    assert read(body, media_type) == expected


def test_a_multipart_form_keeps_every_byte() -> None:
    body = (
        b'--AaB\r\nContent-Disposition: form-data; name="data"; filename="a.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n\r\n--Aa\r\n\n\xff\r\n"
        b'--AaB\r\nContent-Disposition: form-data; name="j"\r\nContent-Type: application/json\r\n'
        b"\r\n[2]\r\n--AaB--\r\n"
    )
    assert read(body, FORM) == {"data": b"\r\n--Aa\r\n\n\xff", "j": [2]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--AaB--",
        b"x--AaB\r\n\r\n--AaB--",
        b'--AaB\r\nContent-Disposition: form-data; name="a"\r\n\r\n1',
        b"--AaB\r\nContent-Disposition: form-data\r\n\r\n1\r\n--AaB--",
    ],
)
def test_a_form_that_is_cut_or_names_nothing(body: bytes) -> None:
    if body == b"--AaB--":
        assert read(body, FORM) == {}
    else:
        with pytest.raises(Refusal):
            read(body, FORM)
