"""A request as TorchServe hands it to a handler: each field by its name, JSON and text decoded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from deploy.torchserve.guard import forms
from deploy.torchserve.guard.http import Refusal

FIELD_NAME = re.compile(rb';[ \t]*name="([^"\r\n]*)"', re.IGNORECASE)
PART_TYPE = re.compile(rb"\r\ncontent-type:[ \t]*([^;\r\n]*)", re.IGNORECASE)


def row(body: bytes, media_type: str, require_json: Callable[[bytes], None]) -> Mapping[str, Any]:
    """Field name -> value: ``{"body": ...}``, or the fields of a form.

    Args:
        media_type: the Content-Type in full, or "".
        require_json: raises where JSON would take too much memory.

    Raises:
        Refusal: a form of too many fields, or one that cannot be read.
    """
    kind = media_type.partition(";")[0].strip().lower()
    form = forms.form(media_type.encode("latin-1", "replace"))
    if form is None:
        return {"body": _value(body, kind, require_json)}
    form.feed(body)
    if isinstance(form, forms.Fields):
        text = body.decode("utf-8", "replace")
        return {k: v.encode() for k, v in parse_qsl(text, keep_blank_values=True)}
    return {
        name: _value(content, part_kind, require_json)
        for name, part_kind, content in _parts(body, media_type)
    }


def _parts(body: bytes, media_type: str) -> Iterator[tuple[str, str, bytes]]:
    """Name, media type and content of each part of a multipart form."""
    found = forms.MEDIA_TYPE.fullmatch(media_type.encode("latin-1", "replace"))
    assert found is not None  # noqa: S101  # forms.form has refused it otherwise
    first, *pieces = (b"\r\n" + body).split(b"\r\n--" + (found[1] or found[2]))
    if first or not pieces or not pieces[-1].startswith(b"--"):
        raise Refusal(400, "a multipart form came that does not begin or end with its boundary")
    for piece in pieces[:-1]:
        head, end, content = piece.partition(b"\r\n\r\n")
        name = FIELD_NAME.search(head)
        if not end or name is None:
            raise Refusal(400, "a part of a multipart form came without a name")
        kind = PART_TYPE.search(head)
        yield (
            name[1].decode("utf-8", "replace"),
            kind[1].decode("latin-1").strip().lower() if kind else "",
            content,
        )


def _value(data: bytes, kind: str, require_json: Callable[[bytes], None]) -> Any:
    if kind == "application/json":
        require_json(data)
        with suppress(ValueError, RecursionError):
            return json.loads(data)
    elif kind.startswith("text"):
        with suppress(UnicodeDecodeError):
            return data.decode()
    return bytearray(data)
