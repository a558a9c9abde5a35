"""The server that this checkout's run.sh started, if it is running, so that no flag is needed."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.torchserve import settings, state


@dataclass(frozen=True)
class Running:
    """Where a server listens, its tokens where it asks for them, and how its workers are set."""

    host: str
    port: int
    management_host: str
    grpc_port: int
    workers: int
    threads: int
    batch: int
    token: str | None = None
    management_token: str | None = None


def find(run_dir: Path) -> Running | None:
    """The server whose state ``run_dir`` holds; None where there is none or it has ended."""
    known = state.read(run_dir)
    if known is None or known.process() is None:
        return None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return _of(known.settings, run_dir)
    return None


def planned() -> settings.Settings:
    """How run.sh would start a server here; raises ``KitError`` for a wrong variable."""
    given = {o.field: os.environ[o.variable] for o in settings.OPTIONS if o.variable in os.environ}
    return settings.make(given)


def _of(known: dict[str, Any], run_dir: Path) -> Running:
    return Running(
        host=settings.reachable(str(known["host"])),
        port=int(known["port"]),
        management_host=settings.reachable(str(known["management_host"])),
        grpc_port=int(known["grpc_port"]),
        workers=int(known["workers"]),
        threads=int(known["threads"]),
        batch=int(known["batch_size"]),
        token=_key(run_dir, "inference"),
        management_token=_key(run_dir, "management"),
    )


def _key(run_dir: Path, kind: str) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((run_dir / "key_file.json").read_text())[kind]["key"])
    return None
