"""The ways in which a request may carry its input."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import payload
from handlers.errors import BadInput, ItemError, UnsupportedFormat

DATA = bytes(range(256))
NAMES = ["body", "data", "file", "image", "b64", "other"]
TEXT = base64.b64encode(DATA).decode()
LINES = base64.encodebytes(DATA).decode()
URI = f"data:image/png;base64,{TEXT}"


@pytest.mark.parametrize(
    "row",
    [
        {"body": DATA},
        {"body": bytearray(DATA)},
        {"data": DATA},
        {"picture": DATA},
        {"body": TEXT},
        {"body": LINES},
        {"body": URI},
        *({"body": {name: TEXT}} for name in ("data", "b64", "image")),
        {"body": base64.urlsafe_b64encode(DATA).decode()},
        {"body": {"anything": TEXT}},
        {"body": json.dumps({"data": TEXT}).encode()},
        {"file": TEXT},
        {"body": {"instances": [{"b64": TEXT}]}},
        {"body": json.dumps({"instances": [TEXT]}).encode()},
    ],
)
def test_all_of_these_are_the_same_input(row: dict[str, Any]) -> None:
    assert payload.read(row) == DATA


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        ({}, BadInput, "fields or parameters none came: expected one, which is the input"),
        ({"a": DATA, "b": DATA}, BadInput, "fields or parameters a, b came: expected one"),
        ({"body": DATA, "image": DATA}, BadInput, "parameters body, image came: expected one"),
        ({"body": {"data": TEXT, "note": 1}}, BadInput, "data, note came: expected one"),
        ({"body": {"instances": [TEXT] * 2}}, BadInput, "2 instances came: expected one"),
        ({"body": b""}, BadInput, "no body: 0 bytes came"),
        ({"body": ""}, BadInput, "empty: 0 bytes came"),
        ({"body": {"data": ""}}, BadInput, "empty: 0 bytes came"),
        ({"body": b'{"data": '}, BadInput, "begins like JSON but is not"),
        ({"body": b"{\xff\xfe}"}, BadInput, "begins like JSON but is not"),
        ({"body": {}}, BadInput, "fields or parameters none came"),
        (
            {"body": {"x": TEXT, "y": TEXT}},
            BadInput,
            "fields or parameters x, y came",
        ),
        ({"a\nb": DATA, "c\x1b[2J": DATA}, BadInput, "fields or parameters a b, c [2J came"),
        ({"a" * 9999: DATA, "b": DATA}, BadInput, "fields or parameters aaa"),
        ({"body": [1, 2]}, UnsupportedFormat, "list came; send the file's bytes, or JSON such as"),
        ({"body": {"data": None}}, UnsupportedFormat, "NoneType came"),
        ({"body": {"data": {"b64": TEXT}}}, UnsupportedFormat, "dict came"),
        ({"body": "hello, world"}, UnsupportedFormat, "text that is not base64"),
        ({"body": {"data": "\u00fc"}}, UnsupportedFormat, "text that is not base64"),
        ({"body": TEXT[:-1]}, UnsupportedFormat, "text that is not base64"),
        ({"body": "data:image/png;base64,%%"}, UnsupportedFormat, "text that is not base64"),
    ],
)
def test_refusals_say_what_came(row: dict[str, Any], error: type[ItemError], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)) as caught:
        payload.read(row)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 500


def test_json_nested_without_end_is_refused() -> None:
    with pytest.raises(BadInput, match="begins like JSON but is not"):
        payload.read({"body": b'{"data":' * 200_000})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3))
@settings(max_examples=200, deadline=None)
def test_whatever_comes_gives_bytes_or_an_item_error(row: dict[str, Any]) -> None:
    try:
        found = payload.read(row)
    except ItemError as e:
        assert e.status in (400, 415)
        assert "\n" not in str(e)
    else:
        assert isinstance(found, bytes)
        assert found
