"""From what TorchServe hands over for one request to the bytes that the client meant."""

from __future__ import annotations

import base64
import binascii
import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

from handlers.errors import BadInput, TooLarge, UnsupportedFormat

MAX_BODY_VARIABLE = "KIT_MAX_ANSWER_BYTES"
"""Environment variable with the largest body that the server takes, and the largest answer."""

MAX_UNPACKED = 1 << 30
"""Bytes that a compressed body may unpack to where no server says."""


def read(row: Mapping[str, Any]) -> bytes:
    """The input's bytes.

    Taken as they are: a raw body, or a multipart form with one field. Decoded from base64, also the
    URL-safe kind: a JSON object with one key, a text body, a ``data:`` URI, the one instance of
    ``{"instances": [{"b64": ...}]}`` as TensorFlow Serving and KServe v1 have it.

    Raises:
        BadInput: nothing there, several fields, parameters or instances, or broken base64.
        UnsupportedFormat: JSON or text of another kind.
    """
    value = field(row)
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        if data[:1] == b"{":
            value = _json(data)
        else:
            if not data:
                raise BadInput("the request has no body: 0 bytes came")
            return data
    if isinstance(value, Mapping):
        listed = value.get("instances")
        value = field(value)
        if isinstance(listed, list):
            if len(listed) != 1:
                raise BadInput(f"{len(listed)} instances came: expected one, which is the input")
            value = field(listed[0]) if isinstance(listed[0], Mapping) else listed[0]
    if not isinstance(value, str):
        raise UnsupportedFormat(
            f"{type(value).__name__} came; send the file's bytes, or JSON such as "
            '{"data": "<base64>"}'
        )
    return _base64(value)


def field(row: Mapping[str, Any]) -> Any:
    """The value of the only field.

    Raises:
        BadInput: none or several came; by their names.
    """
    if len(row) == 1:
        return next(iter(row.values()))
    names = ", ".join(sorted(map(str, row))) or "none"
    raise BadInput(f"fields or parameters {names} came: expected one, which is the input")


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        raise BadInput(f"the body begins like JSON but is not ({e})") from None


def unpacked(row: Mapping[str, Any], encoding: str) -> Mapping[str, Any]:
    """The request with its body as it was before it was compressed.

    Args:
        encoding: the header Content-Encoding in small letters, or "".

    Raises:
        BadInput: damaged.
        TooLarge: it unpacks to more than the server takes.
        UnsupportedFormat: another compression than gzip.
    """
    if encoding in ("", "identity"):
        return row
    if encoding not in ("gzip", "x-gzip"):
        raise UnsupportedFormat(f"Content-Encoding {encoding} came; expected gzip or none")
    data = field(row)
    if not isinstance(data, (bytes, bytearray)):
        raise BadInput(f"Content-Encoding is gzip, but {type(data).__name__} came")
    most = int(os.environ.get(MAX_BODY_VARIABLE) or MAX_UNPACKED)
    reader = zlib.decompressobj(wbits=31)
    try:
        found = reader.decompress(data, most + 1)
    except zlib.error as e:
        raise BadInput(f"Content-Encoding is gzip, but the body is not ({e})") from None
    if len(found) > most:
        raise TooLarge(f"the body unpacks to more than {most:,} bytes, the most taken")
    if not reader.eof or reader.unused_data:
        raise BadInput("the gzip body is truncated, or has more behind its end")
    return {next(iter(row)): found}


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
