"""Parameters of a request in the Open Inference Protocol, as headers that a handler reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from deploy.torchserve.guard.http import PARAMETERS, Refusal

HEADERS = ("accept", "content-encoding", "content-type")
"""Parameters that are headers by themselves."""


def headers(given: Mapping[str, Any]) -> dict[str, str]:
    """The headers; all other parameters are settings, which the handler takes or refuses.

    Raises:
        Refusal: a value that is no text where a header is meant, else neither text nor number.
    """
    told = {k: v for k, v in given.items() if k in HEADERS}
    settings = {k: v for k, v in given.items() if k not in HEADERS}
    plain = (isinstance(v, str) and v.isascii() and v.isprintable() for v in told.values())
    wrong = [name for name, is_plain in zip(told, plain, strict=True) if not is_plain]
    if wrong:
        raise Refusal(400, f"parameters {', '.join(wrong)} came; expected ASCII texts")
    wrong = [k for k, v in settings.items() if not isinstance(v, (str, int, float))]
    if wrong:
        raise Refusal(400, f"parameters {', '.join(wrong)} came; expected texts or numbers")
    if settings:
        told[PARAMETERS.decode()] = urlencode(settings)
    return told
