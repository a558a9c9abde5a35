"""What the text headers of MHA and NRRD files share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import BadInput, Unprocessable

MAX_HEADER = 1 << 16
"""Bytes of a text header at most."""


def numbers(fields: dict[str, str], name: str, count: int, what: str) -> NDArray[np.float64]:
    """A field's numbers.

    Raises:
        BadInput: not there, not numbers, or not as many.
    """
    text = fields.get(name, "")
    try:
        found = [float(word) for word in text.split()]
    except ValueError:
        found = []
    if len(found) != count:
        raise BadInput(f"the {what} header's {name!r} is {text[:60]!r}; expected {count} numbers")
    return np.array(found)


def sizes(fields: dict[str, str], name: str, rank: int, what: str) -> list[int]:
    """A field's sizes.

    Raises:
        BadInput: not there, or no whole numbers.
    """
    found = numbers(fields, name, rank, what)
    if not all(n == round(n) and 0 <= n < 1 << 31 for n in found):
        raise BadInput(f"the {what} header's {name!r} is {fields[name][:60]!r}: the header lies")
    return [int(n) for n in found]


def rank_of(text: str, what: str) -> int:
    """The number of axes, 2 to 4; raises ``BadInput`` or ``Unprocessable``."""
    if not text.isdigit() or len(text) > 2:
        raise BadInput(f"the {what} header claims {text[:20]!r} axes; expected a whole number")
    if not 2 <= int(text) <= 4:
        raise Unprocessable(f"a {what} of {text} axes came; expected 3, or channels as a fourth")
    return int(text)


def element(names: dict[str, str], text: str, big_endian: bool, what: str) -> np.dtype[Any]:
    """An element type by the format's own name; raises ``Unprocessable``."""
    if text not in names:
        raise Unprocessable(f"a {what} of {text[:40]!r} came; expected whole or floating numbers")
    return np.dtype((">" if big_endian else "<") + names[text])
