"""Talks to the server as its own first client: READY, queue, one prediction."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.torchserve import management
from deploy.torchserve.settings import Settings, reachable
from handlers.errors import KitError


@dataclass(frozen=True)
class Answer:
    """Status, media type and body of an HTTP answer."""

    status: int
    media_type: str
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Inside(http.client.HTTPConnection):
    """A connection to TorchServe itself, past the guard."""

    def __init__(self, path: Path, timeout_s: float):
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """HTTP requests to one server; sends a token where the server wants one."""

    def __init__(self, settings: Settings):
        self.settings = settings

    def key(self, kind: str) -> str | None:
        """The "inference" or "management" token, or None where tokens are off."""
        if not self.settings.needs_tokens:
            return None
        return management.key(str(key_file(self.settings)), kind)

    def request(
        self,
        purpose: str,
        method: str,
        path: str,
        body: bytes | None = None,
        timeout_s: float = 5,
        inside: Path | None = None,
    ) -> Answer:
        """One request to a port by its purpose, as in ``Settings.ports``.

        Args:
            inside: TorchServe's own socket, in place of the port.

        Raises:
            OSError or http.client.HTTPException: no answer.
        """
        host, port = self.settings.ports[purpose]
        key = self.key("inference" if purpose == "predictions" else "management")
        connection = http.client.HTTPConnection(reachable(host), port, timeout=timeout_s)
        if inside:
            connection = Inside(inside, timeout_s)
        try:
            connection.request(method, path, body, management.bearer(key))
            response = connection.getresponse()
            kind = response.headers.get_content_type()
            return Answer(response.status, kind, response.read())
        finally:
            connection.close()

    def describe(self, model: str) -> dict[str, Any] | None:
        """What the management API says of a model, or None while there is no answer."""
        host, port = self.settings.ports["management"]
        try:
            return management.describe(reachable(host), port, self.key("management"), model)
        except (OSError, http.client.HTTPException):
            return None

    def is_ready(self, model: str) -> bool:
        """Whether every worker of the model has loaded it."""
        return management.is_ready(self.describe(model))

    def set_workers(self, model: str, count: int) -> None:
        """Asks for that many workers; 0 ends the retries of a model that cannot be loaded."""
        path = f"/models/{model}?min_worker={count}&max_worker={count}"
        with suppress(OSError, http.client.HTTPException):
            self.request("management", "PUT", path)

    def set_default(self, model: str, version: str) -> None:
        """Has requests that name no version answered by this one.

        Raises:
            KitError: TorchServe does not take it, or does not answer.
        """
        path = f"/models/{model}/{version}/set-default"
        try:
            status: object = self.request("management", "PUT", path).status
        except (OSError, http.client.HTTPException) as e:
            status = e
        if status != 200:
            raise KitError(f"{model}: TorchServe does not take its new version ({status})")

    def predict(
        self, model: str, body: bytes, timeout_s: float, inside: Path | None = None
    ) -> Answer:
        """Sends one request body to a model (NAME, or NAME/VERSION)."""
        path = f"/predictions/{model}"
        return self.request("predictions", "POST", path, body, timeout_s, inside)


def key_file(settings: Settings) -> Path:
    """Where the server writes its tokens."""
    return settings.run_dir / "key_file.json"
