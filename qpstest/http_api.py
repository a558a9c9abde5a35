"""One kept-alive HTTP/1.1 connection, as cheap as Python allows.

``http.client`` costs 0.3 to 0.5 ms of processor time a request, which on two cores is taken from
the model that is being measured; a request prepared once and an answer whose head is searched for
three headers cost a quarter of that, and tell when the first byte came.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from handlers.errors import KitError
from qpstest import masks
from qpstest.load import Reply

CHUNK = 1 << 16
HEAD_LIMIT = 1 << 16


@dataclass(frozen=True)
class HttpTarget:
    """Where requests go and what they carry.

    Attributes:
        url: of the inference address, for example ``http://127.0.0.1:8080``.
        model: its registered name.
        bodies: one request each.
        timeout: seconds from a request's start to its answer's end.
        token: sent as ``Authorization: Bearer``, where given.
        accept: media type asked for; with ``application/json`` an answer has to be JSON,
            with ``application/gzip`` a mask on the grid of the volume that was sent.
    """

    url: str
    model: str
    bodies: Sequence[bytes]
    timeout: float
    token: str | None = None
    accept: str = "application/json"


class NotHttpError(Exception):
    """What came back is no HTTP answer that this client can read."""


def split_url(url: str) -> tuple[bool, str, int]:
    """(is it https, host, port) of ``http://host[:port]``.

    Raises:
        KitError: anything else.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == -1:
        raise KitError(f"{url!r} is no address of a server: http://host:port was expected")
    secure = parts.scheme == "https"
    return secure, parts.hostname, port or (443 if secure else 80)


class HttpSession:
    """A caller's connection; opened when first used and again after the server closed it."""

    def __init__(self, target: HttpTarget):
        self._secure, self._host, self._port = split_url(target.url)
        self._target = target
        host = f"[{self._host}]" if ":" in self._host else self._host
        token = f"Authorization: Bearer {target.token}\r\n" if target.token else ""
        head = (
            f"POST /predictions/{quote(target.model, safe='')} HTTP/1.1\r\n"
            f"Host: {host}:{self._port}\r\nAccept: {target.accept}\r\n{token}"
            "Content-Type: application/octet-stream\r\nContent-Length: "
        )
        self._heads = [f"{head}{len(body)}\r\n\r\n".encode("latin-1") for body in target.bodies]
        self._socket: socket.socket | None = None
        self._right: dict[int, bytes] = {}

    def call(self, number: int) -> Reply:
        """Send body ``number`` (modulo the number of bodies) and read its answer."""
        index = number % len(self._heads)
        began = time.perf_counter()
        deadline = began + self._target.timeout
        try:
            sock = self._socket or self._connect()
        except OSError as e:
            return Reply(_kind_of(e, "unreachable"), _first_line(str(e)))
        try:
            self._send(sock, self._heads[index], self._target.bodies[index])
            sent = time.perf_counter()
            first = _receive(sock)
            came = time.perf_counter()
            head, body = _read_answer(sock, first, deadline)
            ended = time.perf_counter()
        except (OSError, NotHttpError) as e:
            self.close()
            if isinstance(e, NotHttpError):
                return Reply("wrong_answer", str(e))
            return Reply(_kind_of(e, "reset"), _first_line(str(e)) or type(e).__name__)
        if b"\r\nconnection: close" in head:
            self.close()
        status = int(head[9:12])
        if status != 200:
            return refusal(status, body)
        if body != self._right.get(index):  # most answers are the last one to the same question
            wrong = self._what_is_wrong(head, body, self._target.bodies[index])
            if wrong is not None:
                return Reply("wrong_answer", wrong)
            self._right[index] = body
        return Reply("", "", body, sent - began, came - sent, ended - came)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        sock = socket.create_connection((self._host, self._port), self._target.timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._secure:
            context = ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=self._host)
        # The kernel keeps the time limit: Python's own would cost a poll() for every call.
        sock.settimeout(None)
        limit = struct.pack("ll", *divmod(int(self._target.timeout * 1e6), 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._socket = sock
        return sock

    def _send(self, sock: socket.socket, head: bytes, body: bytes) -> None:
        try:
            if self._secure:
                sock.sendall(head + body)
                return
            sent = sock.sendmsg((head, body))
            if sent < len(head) + len(body):
                sock.sendall((head + body)[sent:])
        except ConnectionError:
            """The server refused without reading on: its answer may be there already."""

    def _what_is_wrong(self, head: bytes, body: bytes, request: bytes) -> str | None:
        accept = self._target.accept
        if accept == "application/json":
            return what_is_wrong_with_json(body)
        found = (_header(head, b"content-type") or b"no type").split(b";")[0].decode("latin-1")
        if found != accept:
            return f"{accept} was asked for, {found} came"
        return masks.what_is_wrong(body, request) if accept == masks.GZIP else None


def what_is_wrong_with_json(body: bytes) -> str | None:
    """None for JSON, else one line about what came."""
    try:
        json.loads(body)
    except ValueError as e:
        return f"not JSON ({len(body)} bytes, {_first_line(str(e))})"
    return None


def refusal(status: int, body: bytes) -> Reply:
    """The reply for a status other than 200: its kind and the message's first line.

    TorchServe answers 503 both when its queue is full and when a handler failed; only the first is
    an overload.
    """
    kind, message = "", ""
    try:
        fields = json.loads(body)
        kind, message = str(fields.get("type", "")), str(fields.get("message", ""))
    except (ValueError, AttributeError):
        message = body[:200].decode("utf-8", "replace")
    line = _first_line(f"{kind}: {message}" if kind else message)
    if status == 503 and kind != "InternalServerException":
        return Reply("overload", line)
    return Reply(str(status), line)


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:160] if lines else ""


def _kind_of(error: Exception, otherwise: str) -> str:
    if isinstance(error, TimeoutError | BlockingIOError):  # the latter from the kernel's limit
        return "timeout"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionError):
        return "reset"
    return otherwise


def _check(deadline: float) -> None:
    if time.perf_counter() > deadline:
        raise TimeoutError("timed out")


def _receive(sock: socket.socket) -> bytes:
    data = sock.recv(CHUNK)
    if not data:
        raise ConnectionResetError("the server closed the connection")
    return data


def _read_answer(sock: socket.socket, data: bytes, deadline: float) -> tuple[bytes, bytes]:
    """(head in lower case, body) of an answer that begins with ``data``."""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if not data.startswith(b"HTTP/1."[: len(data)]) or len(data) > HEAD_LIMIT:
            raise NotHttpError(f"no HTTP answer: it begins with {data[:40]!r}")
        _check(deadline)
        data += _receive(sock)
    head, body = data[:end].lower(), data[end + 4 :]
    if not head.startswith(b"http/1.") or not head[9:12].isdigit():
        raise NotHttpError(f"no HTTP answer: it begins with {data[:40]!r}")
    length = _header(head, b"content-length")
    if length and length.isdigit():
        return head, _read_more(sock, body, int(length), deadline)
    if _header(head, b"transfer-encoding") == b"chunked":
        return head, _read_chunks(sock, body, deadline)
    raise NotHttpError("an answer without Content-Length")


def _header(head: bytes, name: bytes) -> bytes | None:
    """A header's value; ``head`` and ``name`` in lower case."""
    begin = head.find(b"\r\n" + name + b":")
    if begin < 0:
        return None
    begin += len(name) + 3
    end = head.find(b"\r", begin)
    return (head[begin:end] if end >= 0 else head[begin:]).strip()


def _read_more(sock: socket.socket, data: bytes, length: int, deadline: float) -> bytes:
    if len(data) >= length:
        return data[:length]
    parts, missing = [data], length - len(data)
    while missing > 0:
        _check(deadline)
        parts.append(_receive(sock))
        missing -= len(parts[-1])
    return b"".join(parts)[:length]


def _read_chunks(sock: socket.socket, data: bytes, deadline: float) -> bytes:
    body = b""
    while True:
        while (end := data.find(b"\r\n")) < 0:
            _check(deadline)
            data += _receive(sock)
        try:
            size = int(data[:end].split(b";")[0], 16)
        except ValueError:
            raise NotHttpError(f"no chunk size: {data[:end][:40]!r}") from None
        whole = end + 2 + size + 2
        data = data + _read_more(sock, b"", max(0, whole - len(data)), deadline)
        body += data[end + 2 : end + 2 + size]
        data = data[whole:]
        if size == 0:
            return body
