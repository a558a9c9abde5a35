"""What a running server serves: for a program, and in lines for a person."""

from __future__ import annotations

import http.client
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from deploy.torchserve import management, versions
from deploy.torchserve import server as servers
from deploy.torchserve.client import Client
from deploy.torchserve.server import Server
from deploy.torchserve.settings import Settings
from repack.archive import foreign_code


def found(settings: Settings) -> dict[str, Any] | None:
    """The server's process, its models by their versions, and its addresses; None where none runs.

    ``docs/serving.md`` has every field.
    """
    server = servers.running(settings)
    if server is None:
        return None
    own, client = server.settings, server.client
    return {
        "process": server.state.pid,
        "since": datetime.fromtimestamp(server.state.started)
        .astimezone()
        .isoformat(" ", "seconds"),
        "guard": bool(server.state.guards()),
        "tokens": own.needs_tokens,
        "addresses": {purpose: f"{host}:{port}" for purpose, (host, port) in own.ports.items()},
        "logs": str(own.run_dir / "logs"),
        "models": {name: model(server, client, name) for name in models(client)},
    }


def models(client: Client) -> list[str]:
    """Names of the registered models; empty while the server starts."""
    try:
        answer = client.request("management", "GET", "/models")
        return [entry["modelName"] for entry in answer.json()["models"]]
    except (OSError, http.client.HTTPException, ValueError, LookupError):
        return []


def model(server: Server, client: Client, name: str) -> dict[str, Any]:
    """A model's versions, and which of them answers where none is named."""
    default = (client.describe(name) or {}).get("modelVersion")
    known = server.state.versions.get(name, {})
    return {
        "default": next((v for v, at in known.items() if at == default), None),
        "versions": {v: version(server, client, name, at) for v, at in known.items()},
    }


def version(server: Server, client: Client, name: str, at: str) -> dict[str, Any]:
    """One version: what its record says, and what TorchServe and a worker say.

    Args:
        at: its name in TorchServe.
    """
    told = client.describe(f"{name}/{at}") or {}
    passport = versions.passport(Path(server.state.temp), name, at)
    loaded = described(client, f"{name}/{at}") if passport and management.is_ready(told) else {}
    runtime = loaded.get("runtime", {})
    return {
        "guest": passport is None,
        "task": passport.task if passport else None,
        "backend": runtime.get("name"),
        "precision": runtime.get("precision"),
        "precision_asked": loaded.get("precision_asked"),
        "fallback": runtime.get("fallback"),
        "workers": [
            {"process": w["pid"], "status": w["status"], "memory_mib": memory(w["pid"])}
            for w in told.get("workers", ())
        ],
        "batch_size": told.get("batchSize"),
        "max_batch_delay_ms": told.get("maxBatchDelay"),
        "waiting": told.get("jobQueueStatus", {}).get("pendingRequests"),
        "packed_with": passport.versions if passport else None,
        "foreign_code": (foreign_code(passport) or None) if passport else None,
    }


def described(client: Client, model: str) -> dict[str, Any]:
    """What a worker of the kit's handlers says of itself; empty where it is busy or a guest's."""
    try:
        path = f"/models/{model}?customized=true"
        answer = client.request("management", "GET", path)
        told = answer.json()[0]["customizedMetadata"]
    except (OSError, http.client.HTTPException, ValueError, LookupError):
        return {}
    return told if isinstance(told, dict) else {}


def lines(status: dict[str, Any]) -> list[str]:
    """The same for a person."""
    shown = [f"running since {status['since']}, process {status['process']}"]
    if not status["guard"]:
        shown.append("the guard has ended, so nothing is answered: bash run.sh --stop, then start")
    for name, told in status["models"].items():
        for number, each in told["versions"].items():
            beside = "" if number == told["default"] else ", not the default"
            how = ", ".join(filter(None, (each["backend"], each["precision"])))
            shown.append(
                f"{name} {number}{beside}: {how + ', ' if how else ''}batch {each['batch_size']},"
                f" {each['waiting']} waiting"
            )
            if each["guest"]:
                shown.append("  a guest: not proven")
            if each["fallback"]:
                shown.append(f"  FALLBACK: {each['fallback']}")
            for worker in each["workers"]:
                memory = worker["memory_mib"]
                size = "ended" if memory is None else f"{memory} MiB"
                shown.append(f"  worker {worker['process']}: {worker['status']}, {size}")
    shown += [f"{purpose}: {at}" for purpose, at in status["addresses"].items()]
    return [*shown, f"logs: {status['logs']}"]


def memory(pid: int) -> int | None:
    """MiB of a process's resident memory; None where it has ended."""
    try:
        return psutil.Process(pid).memory_info().rss >> 20
    except psutil.Error:
        return None
