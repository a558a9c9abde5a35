"""From what TorchServe hands over for one request to the bytes that the client meant."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from handlers.errors import BadInput, UnsupportedFormat
from handlers.memory import require_json


def read(row: Mapping[str, Any]) -> bytes:
    """The input's bytes.

    Taken as they are: a raw body, or a multipart form with one field. Decoded from base64, also the
    URL-safe kind: a JSON object with one key, a text body, a ``data:`` URI.

    Raises:
        BadInput: nothing there, several fields or parameters, or broken base64.
        TooLarge: JSON that could unpack to more than this worker may take.
        UnsupportedFormat: JSON or text of another kind.
    """
    value = _field(row)
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        if data[:1] == b"{":
            value = _json(data)
        else:
            if not data:
                raise BadInput("the request has no body: 0 bytes came")
            return data
    if isinstance(value, Mapping):
        value = _field(value)
    if not isinstance(value, str):
        raise UnsupportedFormat(
            f"{type(value).__name__} came; send the file's bytes, or JSON such as "
            '{"data": "<base64>"}'
        )
    return _base64(value)


def _field(row: Mapping[str, Any]) -> Any:
    if len(row) == 1:
        return next(iter(row.values()))
    names = ", ".join(sorted(map(str, row))) or "none"
    raise BadInput(f"fields or parameters {names} came: expected one, which is the input")


def _json(data: bytes) -> Any:
    require_json(len(data))
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        raise BadInput(f"the body begins like JSON but is not ({e})") from None


URL_SAFE = str.maketrans("-_", "+/")


def _base64(text: str) -> bytes:
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    plain = "".join(encoded.split()).translate(URL_SAFE)
    try:
        data = base64.b64decode(plain, validate=True)
    except (binascii.Error, ValueError) as e:
        raise UnsupportedFormat(f"text that is not base64 ({e}): send the file's bytes") from None
    if not data:
        raise BadInput("the request's data is empty: 0 bytes came")
    return data
