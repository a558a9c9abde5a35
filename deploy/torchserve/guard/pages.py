"""What the guard itself answers: a page to try the models on, and their OpenAPI."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from deploy.kserve.models import Reply
from deploy.openapi import document
from deploy.torchserve.guard.http import Head
from deploy.torchserve.guard.limits import Given

FILES = {
    b"": ("index.html", "text/html; charset=utf-8"),
    b"icon.svg": ("icon.svg", "image/svg+xml"),
    b"try.js": ("try.js", "text/javascript; charset=utf-8"),
    b"try.css": ("try.css", "text/css; charset=utf-8"),
}
OPENAPI = b"openapi.json"
SAFE = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def page(given: Given, head: Head) -> Reply | None:
    """The answer to a request for one of the pages; None for any other."""
    (name, *more) = head.path
    if more or head.method not in (b"GET", b"HEAD"):
        return None
    if name == OPENAPI:
        body = json.dumps(document(given.paths, given.tokens)).encode()
        return Reply(200, {"content-type": "application/json", **SAFE}, body)
    if name not in FILES:
        return None
    file, kind = FILES[name]
    return Reply(200, {"content-type": kind, **SAFE}, _read(file))


@cache
def _read(file: str) -> bytes:
    return (Path(__file__).parent / "web" / file).read_bytes()
