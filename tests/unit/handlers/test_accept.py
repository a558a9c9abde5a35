"""Which media type a client gets, by what it says that it accepts."""

from __future__ import annotations

import pytest

from handlers.accept import chosen

OFFERED = ("application/json", "image/jpeg")


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/jpeg", "image/jpeg"),
        ("image/*", "image/jpeg"),
        ("image/jpeg, */*", "image/jpeg"),
        ("image/jpeg;q=0", "application/json"),
        ("image/jpeg;q=0.5, application/json", "application/json"),
        ("application/json;q=0.2, image/jpeg;q=0.9", "image/jpeg"),
        ("*/*;q=0.1, image/jpeg;q=0", "application/json"),
        ("text/html", "application/json"),
        ("image/jpeg; q = 0.8 , application/json;q=0.1", "image/jpeg"),
        ("application/json;q=nonsense, image/jpeg;q=0.1", "image/jpeg"),
        (",;,", "application/json"),
    ],
)
def test_the_best_liked_type_is_chosen(accept: str, wanted: str) -> None:
    assert chosen(accept, OFFERED) == wanted
