from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.torchserve.guard.forms import Parts, form
from deploy.torchserve.guard.http import Refusal

PART = b'--B\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n%s\r\n'


def feed(media_type: bytes, body: bytes, step: int = 1 << 18) -> None:
    found = form(media_type)
    assert found is not None
    for at in range(0, len(body), step):
        found.feed(body[at : at + step])


def test_what_is_no_form() -> None:
    for kind in (b"", b"image/jpeg", b"application/json", b"multipart/related; boundary=a"):
        assert form(kind) is None


@pytest.mark.parametrize(
    "kind", [b"application/x-www-form-urlencoded", b"Application/X-WWW-Form-UrlEncoded ; a"]
)
def test_fields_are_counted(kind: bytes) -> None:
    feed(kind, b"a&" * 63)
    with pytest.raises(Refusal, match="more than 64 fields"):
        feed(kind, b"a&" * 64, 7)


@pytest.mark.parametrize("step", [1, 5, 1 << 18])
def test_parts_are_counted_in_any_pieces(step: int) -> None:
    kind = b"multipart/form-data; boundary=B"
    feed(kind, PART % b"x" * 64 + b"--B--\r\n", step)
    with pytest.raises(Refusal, match="more than 64 parts"):
        feed(kind, PART % b"x" * 65 + b"--B--\r\n", step)


@pytest.mark.parametrize("step", [1, 100, 1 << 18])
def test_a_part_with_an_endless_head_or_a_form_within(step: int) -> None:
    kind = b'multipart/form-data; boundary="B"'
    with pytest.raises(Refusal, match="head of more than 4 KiB"):
        feed(kind, b"--B\r\n" + b"Content-Type: a/b\r\n" * 999, step)
    within = b"--B\r\nContent-Type: Multipart/Mixed; boundary=C\r\n\r\n"
    with pytest.raises(Refusal, match="form within a form"):
        feed(kind, within, step)


@pytest.mark.parametrize(
    "kind",
    [
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=A; boundary=B",
        b"multipart/form-data; charset=a; boundary=B",
        b"multipart/form-dataX; boundary=B",
        b'multipart/form-data; boundary="A\\"B"',
    ],
)
def test_a_boundary_that_could_be_read_in_two_ways(kind: bytes) -> None:
    with pytest.raises(Refusal, match="plain boundary"):
        form(kind)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_what_is_kept_between_two_pieces_is_bounded(body: bytes, step: int) -> None:
    parts = Parts(b"B")
    for at in range(0, len(body), step):
        parts.feed(body[at : at + step])
        assert len(parts._carry) < 4096 + 3
