"""HTTP/1.1 heads and chunked bodies, read strictly: what is not plain is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

END = b"\r\n\r\n"
MAX_HEAD = 8192
"""Bytes of a request's head; TorchServe itself takes no longer one."""

MAX_CHUNK_LINE = 256
SMALLEST_CHUNK = 512
FREE_CHUNKS = 1000
"""Chunks of any size that a body may have; beyond these they must have 512 bytes on average."""

PHRASES = {
    400: "Bad Request", 404: "Not Found", 408: "Request Timeout", 413: "Content Too Large",
    415: "Unsupported Media Type", 417: "Expectation Failed",
    431: "Request Header Fields Too Large", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable",
}  # fmt: skip

USUAL = {
    400: "malformed", 404: "unknown", 405: "malformed", 408: "slow", 413: "too_large",
    415: "unsupported", 417: "unsupported", 422: "malformed", 431: "too_large",
    501: "unsupported", 502: "lost", 503: "queue_full",
}  # fmt: skip
"""Why a request is refused, in a word, where nothing else is said."""

REASONS = (*dict.fromkeys(USUAL.values()), "memory_full", "not_ready", "settings", "fault")

REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) ([!-~]{1,4000}) HTTP/1\.([01])")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"expect",
    b"transfer-encoding", b"content-length",
}  # fmt: skip
"""Headers that belong to one connection, and those that the guard writes anew."""

ONCE = (b"content-length", b"content-type", b"transfer-encoding", b"expect")
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)
CONNECTION = re.compile(rb"\r\n(?:connection|keep-alive):[^\r]*", re.IGNORECASE)


class Refusal(Exception):
    """A request that TorchServe is not asked; ``str(refusal)`` is one line for the caller.

    Attributes:
        reason: one of ``REASONS``.
    """

    def __init__(self, status: int, message: str, reason: str = ""):
        super().__init__(message)
        self.status = status
        self.reason = reason or USUAL[status]

    def answer(self) -> bytes:
        """The whole answer, its JSON in the shape of TorchServe's own errors."""
        kind = PHRASES[self.status].replace(" ", "") + "Exception"
        body = json.dumps({"code": self.status, "type": kind, "message": str(self)}).encode()
        return (
            b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"connection: close\r\n\r\n%s"
        ) % (self.status, PHRASES[self.status].encode(), len(body), body)


@dataclass(frozen=True)
class Head:
    """A request's first line and headers.

    Attributes:
        fields: headers that go on to TorchServe, as they came.
        length: bytes of the body; None where it comes in chunks.
        keeps: whether the connection may carry another request.
        expects: whether the client waits for "100 Continue".
        media_type: the Content-Type in full, or b"".
    """

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    length: int | None
    keeps: bool
    expects: bool
    media_type: bytes

    @property
    def path(self) -> list[bytes]:
        """The target's path, in parts."""
        return self.target.partition(b"?")[0].strip(b"/").split(b"/")

    def stamp(self, name: str, value: int) -> None:
        """Sets a header of the server's own, in place of the client's."""
        kept = [field for field in self.fields if field[0].lower() != name.encode()]
        self.fields[:] = [*kept, (name.encode(), b"%d" % value)]

    def onward(self, length: int) -> bytes:
        """The head for TorchServe, of a body that is complete."""
        lines = [b"%s %s HTTP/1.1" % (self.method, self.target)]
        lines += [b"%s: %s" % field for field in self.fields]
        lines.append(b"Content-Length: %d" % length)
        return b"\r\n".join(lines) + END


PARAMETERS = b"x-parameters"
"""The header by which handlers take a request's settings (``handlers.parameters``)."""

READER = "handlers/parameters.py"
"""What of an archive reads them: one that an older kit packed, or another program, would not."""

ELSEWHERE = {
    b"explanations": "which has none",
    b"v1": "which has none: a request's settings stand beside its instance's data",
    b"v2": "which has none: a request's settings are its parameters",
}
"""First parts of paths under which models are asked in another way, and what is said there of a
query string."""


def unread(name: str) -> Refusal:
    """Of a request's settings to a model whose archive has no ``READER``."""
    return Refusal(
        400,
        f"settings came, which the archive of {name} does not read; expected none, or repack its"
        " model",
        "settings",
    )


def query_handed_on(head: Head) -> Head:
    """The head with a query string to a model as a header: TorchServe keeps it from the worker, and
    hands headers over.

    Raises:
        Refusal: the header came, too, or the path takes no query string.
    """
    path, _, query = head.target.partition(b"?")
    first = head.path[0]
    if not query or first not in (b"predictions", *ELSEWHERE):
        return head
    shown = query[:80].decode("latin-1")
    if first in ELSEWHERE:
        raise Refusal(
            400,
            f"the query string {shown!r} came to /{first.decode()}, {ELSEWHERE[first]}",
            "settings",
        )
    if any(name.lower() == PARAMETERS for name, _ in head.fields):
        told = f"the query string {shown!r} came beside X-Parameters; expected one"
        raise Refusal(400, told, "settings")
    return replace(head, target=path, fields=[*head.fields, (PARAMETERS, query)])


def read_head(data: bytes) -> Head:
    """Reads a head, without the empty line at its end.

    Raises:
        Refusal: it is not HTTP/1.0 or 1.1, or could be read in more than one way.
    """
    first, *lines = data.split(b"\r\n")
    match = REQUEST_LINE.fullmatch(first)
    if match is None:
        raise Refusal(400, "no HTTP/1.1 request came: its first line is malformed or too long")
    fields = []
    named: dict[bytes, bytes] = {}
    for line in lines:
        found = FIELD.fullmatch(line)
        if found is None:
            raise Refusal(400, "a malformed header came; expected NAME: VALUE")
        name, value = found.groups()
        lower = name.lower()
        if lower in ONCE and lower in named:
            raise Refusal(400, f"two headers {lower.decode()} came; expected one")
        named[lower] = value
        if lower not in HOP:
            fields.append((name, value))
    tokens = named.get(b"connection", b"").lower()
    if b"content-length" in named and b"transfer-encoding" in named:
        raise Refusal(400, "content-length and transfer-encoding came; expected one of them")
    expect = named.get(b"expect", b"").lower()
    if expect not in (b"", b"100-continue"):
        raise Refusal(417, "an Expect other than 100-continue came")
    return Head(
        match[1],
        match[2],
        fields,
        body_length(named),
        match[3] == b"1" and b"close" not in tokens,
        bool(expect) and match[3] == b"1",
        named.get(b"content-type", b""),
    )


def body_length(named: dict[bytes, bytes]) -> int | None:
    """Bytes of the body; None where it comes in chunks."""
    coding = named.get(b"transfer-encoding")
    if coding is not None:
        if coding.lower() != b"chunked":
            raise Refusal(501, "a transfer-encoding other than chunked came")
        return None
    text = named.get(b"content-length", b"0")
    if not re.fullmatch(rb"[0-9]{1,15}", text):
        raise Refusal(400, "a content-length came that is no number of bytes")
    return int(text)


class Chunks:
    """Takes a chunked body apart.

    Args:
        any_size: whether any number of small chunks may come.

    Attributes:
        rest: what came behind the body; None until it is complete.
    """

    def __init__(self, any_size: bool = False) -> None:
        self.rest: bytes | None = None
        self._any_size = any_size
        self._carry = b""
        self._left = 0
        self._behind = False
        self._last = False
        self._count = self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces of the body that lie in these bytes.

        Raises:
            Refusal: no chunks, or too many small ones.
        """
        if self._carry:
            data, self._carry = self._carry + data, b""
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                self._size += len(piece)
                yield piece
                continue
            end = data.find(b"\r\n", at, at + MAX_CHUNK_LINE)
            if end < 0:
                if len(data) - at >= MAX_CHUNK_LINE:
                    raise Refusal(400, "a chunk's first line is too long")
                self._carry = data[at:]
                return
            line, at = data[at:end], end + 2
            if self._behind:  # the line's end after a chunk
                self._behind = False
                if line:
                    raise Refusal(400, "a chunk is longer than it says")
            elif self._last:
                if not line:
                    self.rest = data[at:]
                    return
                self._small()  # a trailer, which nobody reads
            else:
                self._begin(line)

    def _begin(self, line: bytes) -> None:
        size = line.partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,12}", size):
            raise Refusal(400, "a chunk came without its size")
        self._left = int(size, 16)
        self._behind = bool(self._left)
        self._last = not self._left
        self._small()

    def _small(self) -> None:
        self._count += 1
        free = FREE_CHUNKS + self._size // SMALLEST_CHUNK
        if self._count > free and not self._any_size:
            raise Refusal(400, f"chunks of under {SMALLEST_CHUNK} bytes came, too many of them")
