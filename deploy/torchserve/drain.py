"""Lets requests in flight finish before the server is told to end.

The guard takes no new connection once it is told to end, answers what it has, and closes. gRPC
calls TorchServe lets finish by itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil

from deploy.torchserve.client import Client


def drain(client: Client, guards: Sequence[psutil.Process], wait_s: float) -> bool:
    """Refuses new connections, and waits for the requests in flight.

    Args:
        guards: the processes that take the clients' connections.
        wait_s: longest wait, in seconds.

    Returns:
        Whether nothing was in flight at the end.
    """
    end = time.monotonic() + wait_s
    for guard in guards:
        try:
            guard.terminate()
        except psutil.NoSuchProcess:
            continue
    _, busy = psutil.wait_procs(guards, wait_s)
    while not busy and waiting(client):
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return not busy


def waiting(client: Client) -> int:
    """Requests in the named model's queue; 0 where the server does not say."""
    described = client.describe(client.settings.name) or {}
    return int(described.get("jobQueueStatus", {}).get("pendingRequests", 0))
