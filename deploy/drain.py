"""Waits until no request is in flight."""

from __future__ import annotations

import time

from deploy.client import Client


def drain(client: Client, pid: int, wait_s: float) -> bool:
    """Waits for queued requests, at most ``wait_s`` seconds.

    Returns:
        Whether the queue was empty at the end.
    """
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        described = client.describe(client.settings.name)
        if described is None:
            return True
        if not described.get("jobQueueStatus", {}).get("pendingRequests", 0):
            return True
        time.sleep(0.1)
    return False
