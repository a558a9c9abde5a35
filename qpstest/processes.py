"""Memory and processor time of the server's processes, where they run on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import psutil

WORKER = "model_service_worker"
GPU_SERVERS = {"handlers.gpu.server.process", "handlers.gpu.hub.process"}
"""The program that holds a detector on a GPU for all workers, one of those that run the model: of
archives packed today, and before."""


@dataclass(frozen=True)
class Usage:
    """What a server's processes hold and have used so far.

    Attributes:
        pids: of the workers that the server names, wherever they run.
        resident: bytes of each worker of this machine, and of their GPU servers.
        workers: seconds of processor time of all of these; None where there is none here.
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
    servers: set[int] = set()
    for worker in workers:
        with contextlib.suppress(psutil.Error):
            servers.add(worker.ppid())
    resident += gpu_server_bytes(servers)
    spent += sum(gpu_server_seconds(server) for server in servers)
    return Usage(pids, tuple(resident), spent if workers else None, front)


def per_request(before: float | None, after: float | None, requests: int) -> float | None:
    """Milliseconds for each of so many requests; None where one of the two is not known."""
    if before is None or after is None or not requests or after < before:
        return None
    return round((after - before) / requests * 1e3, 3)


def gpu_servers(servers: Collection[int]) -> list[psutil.Process]:
    """The GPU servers of the workers whose parents these are."""
    wanted = {f"--server={pid}" for pid in servers}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if not GPU_SERVERS.isdisjoint(words) and wanted.intersection(words):
                found.append(process)
    return found


def gpu_server_bytes(servers: Collection[int]) -> list[int]:
    """Resident bytes of each of these servers' GPU servers."""
    found = []
    for process in gpu_servers(servers):
        with contextlib.suppress(psutil.Error):
            found.append(int(process.memory_info().rss))
    return found


def gpu_server_seconds(server: int) -> float:
    """Seconds of processor time of one server's GPU servers so far."""
    total = 0.0
    for process in gpu_servers({server}):
        with contextlib.suppress(psutil.Error):
            total += _seconds(process)
    return total


def _worker(pid: int) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if any(WORKER in part for part in process.cmdline()):
            return process
    return None


def _seconds(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)
