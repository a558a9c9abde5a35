"""Memory and processor time of the server's processes, where they run on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

WORKER = "model_service_worker"


@dataclass(frozen=True)
class Usage:
    """What a server's processes hold and have used so far.

    Attributes:
        pids: of the workers that the server names, wherever they run.
        resident: bytes of each worker of this machine.
        workers: seconds of processor time of all of them; None where there is none here.
        front: seconds of the front end, their parent.
    """

    pids: frozenset[int]
    resident: tuple[int, ...]
    workers: float | None
    front: float | None


def usage(pids: Iterable[int]) -> Usage:
    """Looks at the workers with these process ids; an id that is another program's is passed over,
    since the server may be in a container or on another machine."""
    pids = frozenset(pids)
    workers = [w for pid in sorted(pids) if (w := _worker(pid))]
    resident, spent, front = [], 0.0, None
    for worker in workers:
        with contextlib.suppress(psutil.Error):
            resident.append(int(worker.memory_info().rss))
            spent += _seconds(worker)
            parent = worker.parent()
            front = _seconds(parent) if parent else None
    return Usage(pids, tuple(resident), spent if workers else None, front)


def per_request(before: float | None, after: float | None, requests: int) -> float | None:
    """Milliseconds for each of so many requests; None where one of the two is not known."""
    if before is None or after is None or not requests or after < before:
        return None
    return round((after - before) / requests * 1e3, 3)


def _worker(pid: int) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if any(WORKER in part for part in process.cmdline()):
            return process
    return None


def _seconds(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)
