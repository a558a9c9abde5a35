"""A container's health check: exit status 0 where the server answers and its model is READY."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from deploy.torchserve import ports, state  # noqa: E402
from deploy.torchserve import server as servers  # noqa: E402
from deploy.torchserve.settings import parse  # noqa: E402
from handlers.errors import KitError  # noqa: E402


def ailment(environ: Mapping[str, str]) -> str | None:
    """What is wrong with the server of ``RUN_DIR``, in one line; None where nothing is.

    Raises:
        KitError: an environment variable is not what its option expects.
    """
    _, settings = parse((), environ)
    server = servers.running(settings)
    if server is None:
        began = state.read(settings.run_dir) is not None
        return f"the server of {settings.run_dir} {'has ended' if began else 'was not started'}"
    own = server.settings
    if not server.client.is_ready(own.name):
        return f"model {own.name} is not READY"
    for purpose in ("predictions", "gRPC predictions"):
        if not ports.answers(*own.ports[purpose]):
            return f"port {own.ports[purpose][1]} ({purpose}) does not answer"
    return None


def main() -> int:
    """0 healthy, 1 not; the reason is on stdout, where ``docker inspect`` keeps it."""
    try:
        found = ailment(os.environ)
    except KitError as e:
        found = str(e)
    print(found or "healthy")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
