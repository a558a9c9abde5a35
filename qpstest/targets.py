"""From a mode to the processes that measure it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.torchserve.settings import cores
from handlers.errors import KitError
from qpstest import running, server_metrics
from qpstest.agent import Target
from qpstest.flags import ROOT
from qpstest.local_api import LocalTarget
from qpstest.options import LOCAL_PORTABLE, Options
from qpstest.server_metrics import ModelStatus


@dataclass(frozen=True)
class Setup:
    """How one mode is measured.

    Attributes:
        mode: 1, 2 or 3.
        targets: one for each process.
        environment: of those processes.
        processes: local processes, or the server's workers (None where it does not say).
        batch: most items at once.
        about: further fields of the report.
        notes: lines for the reader.
    """

    mode: int
    targets: Sequence[Target]
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int | None = None
    batch: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def local_setups(options: Options, mode: int, folder: Path, bodies: Sequence[bytes]) -> list[Setup]:
    """The setups for an unpacked archive, with as many processes as the server has workers.

    There is one for each batch size that was asked for, the smallest first.
    """
    processes, threads, batch = _shape(options)
    return [
        _local_setup(options, mode, folder, bodies, (processes, threads, size))
        for size in options.batches or (batch,)
    ]


def _local_setup(
    options: Options,
    mode: int,
    folder: Path,
    bodies: Sequence[bytes],
    shape: tuple[int, int, int],
) -> Setup:
    processes, threads, batch = shape
    artefact = "portable" if mode == LOCAL_PORTABLE else "accelerated"
    target = LocalTarget(
        *(folder, options.name, artefact, bodies, batch, options.accept), shared=processes > 1
    )
    return Setup(
        mode=mode,
        targets=[target] * processes,
        environment={"OMP_NUM_THREADS": str(threads)},
        processes=processes,
        batch=batch,
        about={"protocol": None, "threads": threads},
    )


def unpack_archive(options: Options, folder: Path) -> str | None:
    """Unpack the model's archive into ``folder``.

    Returns:
        a line to show where the checkout's handlers are not those of the archive, else None.

    Raises:
        KitError: there is no archive, or it is damaged.
    """
    path = options.model_store / f"{options.name}.mar"
    if not path.is_file():
        raise KitError(
            f"no archive {path}: make it with python repack/model_repack.py --name {options.name}"
        )
    from repack.archive import unpack

    passport = unpack(path, folder)
    differing = [
        name
        for name, digest in passport.files.items()
        if name.startswith("handlers/") and _digest(ROOT / name) != digest
    ]
    if not differing:
        return None
    return (
        f"{len(differing)} of the checkout's handlers differ from the archive's "
        f"({differing[0]}, ...): local modes run the checkout's; repack to compare like with like"
    )


def _digest(path: Path) -> str:
    with contextlib.suppress(OSError):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return ""


def _shape(options: Options) -> tuple[int, int, int]:
    """(processes, threads of each, batch size) of local modes, as served; flags win over it."""
    planned = running.planned()
    status = _status(options)
    workers = len(status.workers) if status else planned.workers
    batch = status.batch if status else planned.batch_size
    processes = options.processes or workers or 1
    threads = options.threads or max(1, cores() // processes)
    return processes, threads, batch


def _status(options: Options) -> ModelStatus | None:
    """What the running server says of the model; None where it says nothing."""
    with contextlib.suppress(KitError):
        server = options.server
        return server_metrics.model_status(
            server.management_url, options.name, server.management_token
        )
    return None
