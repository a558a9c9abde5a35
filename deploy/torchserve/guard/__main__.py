"""The program: one process for each description in its file, all on one port."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

from deploy.torchserve.guard import figures
from deploy.torchserve.guard.asking import hold, speaker
from deploy.torchserve.guard.client import Client
from deploy.torchserve.guard.counts import Counts
from deploy.torchserve.guard.house import House
from deploy.torchserve.guard.limits import Given

CHECK_S = 0.5
SPARE_FILES = 256
MOST_CONNECTIONS = 20_000
LOG_S = 60
STOP_S = 3600
"""Seconds that calls by gRPC may finish in: whoever ends the guard waits less."""

AT_ONCE = 32
"""Connections that are taken in a row, while all others wait."""

BACKLOG = 4096


def listen(given: Given) -> socket.socket:
    """The public socket."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if given.shared:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind((given.host, given.port))
    return found


def connections() -> int:
    """How many connections this process may have, after it asked for all that it can get."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + SPARE_FILES
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(1, most - SPARE_FILES)


def life(pid: int) -> bytes | None:
    """What tells a process from a later one of its id; None where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19]


async def serve(given: Given, counts: Counts) -> None:
    """Serves until SIGTERM, then until all are answered; ends at once with the front end."""
    loop = asyncio.get_running_loop()
    house = House(given, connections(), counts)
    page = await figures.serve(house) if given.metrics[0] else None
    door = listen(given)
    server = await loop.create_server(lambda: Client(house), sock=door, backlog=AT_ONCE)
    door.listen(BACKLOG)
    service, ending = None, list[asyncio.Task[None]]()
    if given.v2_grpc_port:
        from deploy.kserve import service as grpc_service  # 10 MB that few ask for

        at = given.host, given.v2_grpc_port, given.shared, given.max_body
        service = await grpc_service.start(speaker(house), *at, partial(hold, house))

    def stop() -> None:
        house.stopping = True
        server.close()
        for guest in list(house.guests):
            guest.stop()
        if service is not None:
            ending.append(loop.create_task(service.stop(STOP_S)))

    file = Path(sys.argv[1])
    told = file.with_name(f"{file.stem}.{os.getpid()}")

    def change() -> None:
        told.unlink(missing_ok=True)
        house.change(read(file)[0])

    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGHUP, change)
    born, logged = life(given.server), time.monotonic()
    while born is not None and life(given.server) == born:
        await asyncio.sleep(CHECK_S if not house.stopping else CHECK_S / 10)
        now = loop.time()
        for each in (*house.guests, *house.asked):
            loop.call_soon(each.check, now)  # a fault with one ends neither the others nor this
        if house.changed and not told.exists():
            told.write_text(str(house.given.turn))
        if house.stopping and not house.guests and all(task.done() for task in ending):
            break
        if house.refused and time.monotonic() - logged > LOG_S:
            print("refused:", *(f"{n} x {s}" for s, n in house.refused.items()), flush=True)
            house.refused.clear()
            logged = time.monotonic()
    if page is not None:
        page.close()
    if service is not None:
        await service.stop(None)


def read(file: Path) -> list[Given]:
    """What each process is told."""
    return [Given(**each) for each in json.loads(file.read_text())]


def main() -> None:
    """Forks for all but the first description."""
    given, *others = read(Path(sys.argv[1]))
    counts = Counts(1 + len(others))
    for number, other in enumerate(others, 1):
        if os.fork() == 0:
            given, counts.process = other, number
            break
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(serve(given, counts))


if __name__ == "__main__":
    main()
