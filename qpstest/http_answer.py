"""An HTTP/1.1 answer read piece by piece, whoever waits for the pieces."""

from __future__ import annotations

HEAD_LIMIT = 1 << 16


class NotHttpError(Exception):
    """What came back is no HTTP answer that this client can read."""


class AnswerReader:
    """Collects one answer.

    Attributes:
        head: status line and headers in lower case; empty until they are whole.
        status: of the answer, 0 until the head is whole.
    """

    __slots__ = ("_chunked", "_data", "_missing", "_parts", "head", "status")

    def __init__(self) -> None:
        self.head = b""
        self.status = 0
        self._data = b""
        self._parts: list[bytes] = []
        self._missing = 0
        self._chunked = False

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)

    def feed(self, data: bytes) -> bool:
        """Takes the bytes that came; True once the answer is whole.

        Raises:
            NotHttpError: this is no HTTP answer, or one of unknown length.
        """
        if not self.head:
            data = self._data + data if self._data else data
            rest = self._read_head(data)
            if rest is None:
                self._data = data
                return False
            self._data, data = b"", rest
        if self._chunked:
            return self._read_chunks(self._data + data)
        self._parts.append(data if len(data) <= self._missing else data[: self._missing])
        self._missing -= len(data)
        return self._missing <= 0

    def _read_head(self, data: bytes) -> bytes | None:
        """What follows the head; None where it is not whole."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if not data.startswith(b"HTTP/1."[: len(data)]) or len(data) > HEAD_LIMIT:
                raise NotHttpError(f"no HTTP answer: it begins with {data[:40]!r}")
            return None
        head = data[:end].lower()
        if not head.startswith(b"http/1.") or not head[9:12].isdigit():
            raise NotHttpError(f"no HTTP answer: it begins with {data[:40]!r}")
        length = header(head, b"content-length")
        if length and length.isdigit():
            self._missing = int(length)
        elif header(head, b"transfer-encoding") == b"chunked":
            self._chunked = True
        else:
            raise NotHttpError("an answer without Content-Length")
        self.head, self.status = head, int(head[9:12])
        return data[end + 4 :]

    def _read_chunks(self, data: bytes) -> bool:
        while True:
            end = data.find(b"\r\n")
            if end < 0:
                break
            try:
                size = int(data[:end].split(b";")[0], 16)
            except ValueError:
                raise NotHttpError(f"no chunk size: {data[:end][:40]!r}") from None
            whole = end + 2 + size + 2
            if len(data) < whole:
                break
            if size == 0:
                return True
            self._parts.append(data[end + 2 : end + 2 + size])
            data = data[whole:]
        self._data = data
        return False


def header(head: bytes, name: bytes) -> bytes | None:
    """A header's value; ``head`` and ``name`` in lower case."""
    begin = head.find(b"\r\n" + name + b":")
    if begin < 0:
        return None
    begin += len(name) + 3
    end = head.find(b"\r", begin)
    return (head[begin:end] if end >= 0 else head[begin:]).strip()
