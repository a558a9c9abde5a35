"""What TorchServe's management API says of a model, and the tokens that it wants."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def key(file: str, kind: str) -> str | None:
    """The "inference" or "management" token of TorchServe's file; None where there is none."""
    try:
        return str(json.loads(Path(file).read_text())[kind]["key"])
    except (OSError, ValueError, KeyError):
        return None


def bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def describe(host: str, port: int, token: str | None, model: str) -> dict[str, Any] | None:
    """What is said of a model; None where there is no such answer.

    Raises:
        OSError or http.client.HTTPException: no answer.
    """
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", f"/models/{model}", headers=bearer(token))
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    return described(response.status, body)


def described(status: int, body: bytes) -> dict[str, Any] | None:
    """The model of an answer of the management API; None where it holds none."""
    try:
        found: dict[str, Any] = json.loads(body)[0]
    except (ValueError, LookupError):
        return None
    return found if status == 200 else None


def is_ready(told: Mapping[str, Any] | None) -> bool:
    """Whether every worker of a described model has loaded it."""
    states = [worker["status"] for worker in (told or {}).get("workers", ())]
    return len(states) >= (told or {}).get("minWorkers", 1) and set(states) == {"READY"}
