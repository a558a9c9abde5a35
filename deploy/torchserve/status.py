"""What a running server serves, in lines for a person."""

from __future__ import annotations

import http.client
from datetime import datetime

import psutil

from deploy.torchserve import server as servers
from deploy.torchserve.client import Client
from deploy.torchserve.settings import Settings


def lines(settings: Settings) -> list[str]:
    """The server's process, its models with their workers, and its ports; empty where none runs."""
    server = servers.running(settings)
    if server is None:
        return []
    own, client = server.settings, server.client
    since = datetime.fromtimestamp(server.state.started).strftime("%Y-%m-%d %H:%M:%S")
    found = [f"running since {since}, process {server.state.pid}"]
    if not server.state.guards():
        found.append("the guard has ended, so nothing is answered: bash run.sh --stop, then start")
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
