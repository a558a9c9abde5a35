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
from dataclasses import dataclass, field
from typing import ClassVar, Protocol
from urllib.parse import urlsplit

from handlers.errors import KitError
from qpstest.http_answer import AnswerReader, NotHttpError, header
from qpstest.load import Reply
from repack.tasks.load_test import JSON, LoadTest

CHUNK = 1 << 16


class Wire(Protocol):
    """How a server's kind packs a request and its answer."""

    @property
    def path(self) -> str:
        """Of the request, percent-encoded."""
        ...

    @property
    def typed(self) -> bool:
        """Whether the HTTP answer's media type is that of the model's answer."""
        ...

    def encode(self, body: bytes) -> tuple[str, bytes]:
        """(further header lines, each ended by CRLF; what is sent) for an input."""
        ...

    def decode(self, head: bytes, body: bytes) -> bytes:
        """The model's own answer in an answer with status 200; raises ``ValueError``."""
        ...


@dataclass(frozen=True)
class Plain:
    """The input is the request's body, the answer's body is the answer."""

    path: str
    typed: ClassVar[bool] = True

    def encode(self, body: bytes) -> tuple[str, bytes]:
        return "Content-Type: application/octet-stream\r\n", body

    def decode(self, head: bytes, body: bytes) -> bytes:
        return body


@dataclass(frozen=True)
class HttpTarget:
    """Where requests go and what they carry.

    Attributes:
        url: of the inference address, for example ``http://127.0.0.1:8080``.
        wire: the server's kind of request, with its path.
        bodies: the inputs, one a request.
        timeout: seconds from a request's start to its answer's end.
        token: sent as ``Authorization: Bearer``, where given.
        accept: media type asked for and checked; JSON has to be JSON.
        task: says what else makes an answer right.
    """

    url: str
    wire: Wire
    bodies: Sequence[bytes]
    timeout: float
    token: str | None = None
    accept: str = JSON
    task: LoadTest = field(default_factory=LoadTest)

    def requests(self) -> list[tuple[bytes, bytes]]:
        """(head, body) of each input's request."""
        _, host, port = split_url(self.url)
        host = f"[{host}]" if ":" in host else host
        token = f"Authorization: Bearer {self.token}\r\n" if self.token else ""
        common = f"POST {self.wire.path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        common += f"Accept: {self.accept}\r\n{token}"
        made = []
        for body in self.bodies:
            more, data = self.wire.encode(body)
            head = f"{common}{more}Content-Length: {len(data)}\r\n\r\n"
            made.append((head.encode("latin-1"), data))
        return made


class Judge:
    """Tells right answers from wrong ones.

    Most answers are the last one to the same question, which is not looked into again.
    """

    def __init__(self, target: HttpTarget):
        self._target = target
        self._right: dict[int, tuple[bytes, bytes]] = {}

    def reply(self, index: int, answer: AnswerReader) -> Reply:
        """The reply, without its times, for the answer to input ``index``."""
        body = answer.body
        if answer.status != 200:
            return refusal(answer.status, body)
        known = self._right.get(index)
        if known is None or body != known[0]:
            try:
                inner = self._target.wire.decode(answer.head, body)
            except ValueError as e:
                return Reply("wrong_answer", _first_line(str(e)))
            wrong = self._what_is_wrong(answer.head, inner, index)
            if wrong is not None:
                return Reply("wrong_answer", wrong)
            known = self._right[index] = body, inner
        return Reply("", "", known[1])

    def _what_is_wrong(self, head: bytes, inner: bytes, index: int) -> str | None:
        target = self._target
        if target.accept != JSON and target.wire.typed:
            found = (header(head, b"content-type") or b"no type").split(b";")[0].decode("latin-1")
            if found != target.accept:
                return f"{target.accept} was asked for, {found} came"
        return target.task.what_is_wrong(target.accept, inner, target.bodies[index])


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
        self._requests = target.requests()
        self._judge = Judge(target)
        self._socket: socket.socket | None = None

    def call(self, number: int) -> Reply:
        """Send body ``number`` (modulo the number of bodies) and read its answer."""
        index = number % len(self._requests)
        began = time.perf_counter()
        deadline = began + self._target.timeout
        try:
            sock = self._socket or self._connect()
        except OSError as e:
            return failure(e, "unreachable")
        answer = AnswerReader()
        try:
            self._send(sock, *self._requests[index])
            sent = time.perf_counter()
            whole = answer.feed(receive(sock))
            came = time.perf_counter()
            while not whole:
                if time.perf_counter() > deadline:
                    raise TimeoutError("timed out")
                whole = answer.feed(receive(sock))
            ended = time.perf_counter()
        except (OSError, NotHttpError) as e:
            self.close()
            return failure(e, "reset")
        if b"\r\nconnection: close" in answer.head:
            self.close()
        reply = self._judge.reply(index, answer)
        return reply._replace(send=sent - began, wait=came - sent, receive=ended - came)

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


def failure(error: Exception, otherwise: str) -> Reply:
    """The reply for a request whose connection failed; ``otherwise`` names other kinds."""
    line = _first_line(str(error)) or type(error).__name__
    if isinstance(error, NotHttpError):
        return Reply("wrong_answer", line)
    if isinstance(error, TimeoutError | BlockingIOError):  # the latter from the kernel's limit
        return Reply("timeout", line)
    if isinstance(error, ConnectionRefusedError):
        return Reply("refused", line)
    return Reply("reset" if isinstance(error, ConnectionError) else otherwise, line)


def receive(sock: socket.socket) -> bytes:
    """What has come, at least one byte; raises ``OSError``."""
    data = sock.recv(CHUNK)
    if not data:
        raise ConnectionResetError("the server closed the connection")
    return data
