"""What a running server serves, in lines for a person."""

from __future__ import annotations

import http.client
from datetime import datetime
from typing import Any

import psutil

from deploy import server as servers
from deploy.client import Client
from deploy.settings import OPTIONS, Settings, make
from handlers.errors import KitError


def started_with(settings: Settings, record: dict[str, Any]) -> Settings:
    """The settings a server was started with, from its state; flags of now do not change it."""
    known = {o.field for o in OPTIONS}
    texts = {
        key: str(int(value)) if isinstance(value, bool) else str(value)
        for key, value in record.items()
        if key in known
    }
    try:
        return make({**texts, "run_dir": str(settings.run_dir)})
    except KitError:
        return settings


def lines(settings: Settings) -> list[str]:
    """The server's process, its models with their workers, and its ports; empty where none runs."""
    server = servers.running(settings)
    if server is None:
        return []
    own = started_with(settings, server.state.settings)
    client = Client(own)
    since = datetime.fromtimestamp(server.state.started).strftime("%Y-%m-%d %H:%M:%S")
    found = [f"running since {since}, process {server.state.pid}"]
    for model in models(client):
        found += model_lines(client, model)
    found += [f"{purpose}: {host}:{port}" for purpose, (host, port) in own.ports.items()]
    found.append(f"logs: {own.run_dir / 'logs'}")
    return found


def models(client: Client) -> list[str]:
    """Names of the registered models; empty while the server starts."""
    try:
        answer = client.request("management", "GET", "/models")
        return [entry["modelName"] for entry in answer.json()["models"]]
    except (OSError, http.client.HTTPException, ValueError, LookupError):
        return []


def model_lines(client: Client, name: str) -> list[str]:
    """A model's version and queue, and each worker with its state and resident memory."""
    described = client.describe(name)
    if described is None:
        return [f"{name}: no answer"]
    queue = described.get("jobQueueStatus", {})
    found = [
        f"{name} {described['modelVersion']}: batch {described['batchSize']},"
        f" {queue.get('pendingRequests', 0)} waiting"
    ]
    for worker in described["workers"]:
        found.append(f"  worker {worker['pid']}: {worker['status']}, {memory(worker['pid'])}")
    return found


def memory(pid: int) -> str:
    """Resident memory of a process, in words."""
    try:
        return f"{psutil.Process(pid).memory_info().rss >> 20} MiB"
    except psutil.Error:
        return "ended"
