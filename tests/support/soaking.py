"""An hour's worth of mixed requests, sent in rounds, and what the server holds after each."""

from __future__ import annotations

import hashlib
import random
import socket
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import psutil

from tests.support.bench import Bench
from tests.support.growth import Bound, Rise, rise

A_SECOND = 10
"""Requests a second that users run: half of what two cores answer one client of the shipped
detector (22: benchmarks/results/cpu.md), since a server that keeps its latency is half idle."""

CLIENTS = 4
ROUNDS, A_ROUND = 60, 40
"""As many rounds, of at least so many requests."""

MEMORY = Bound(floor=8.0, a_thousand=1.0)
"""MiB. 8 come and go: a malloc arena grows by whole heaps, Java's by steps. 1 a thousand requests
is 1 KiB a request, the smallest leak that an hour tells from that; it would be 36 MiB an hour."""

DESCRIPTORS = Bound(floor=4.0)
"""No share of the requests: a round ends with all connections closed."""

LATENCY = Bound(share=0.5)
"""Of the quickest tenth of a round's requests, in units of a calculation that the same client does
just before: others on the machine slow both down, and the quickest tenth least."""


@dataclass(frozen=True)
class Kind:
    """A request and how it must be answered.

    Attributes:
        status: 0 for a client that leaves before its answer.
        weight: how often it comes, in a hundred.
        work: MiB that a client hashes to calibrate: about as long as the answer takes, since what
            is short enough is not interrupted by others on the machine.
    """

    name: str
    model: str
    body: bytes
    status: int
    weight: int
    headers: dict[str, str] = field(default_factory=dict)
    work: int = 2


BLOCK = bytes(1 << 20)


def calibrate(work: int) -> float:
    """Seconds of a fixed calculation in this process."""
    begin = time.perf_counter()
    for _ in range(work):
        hashlib.sha256(BLOCK).digest()
    return time.perf_counter() - begin


@dataclass
class Soak:
    """What a soak saw.

    Attributes:
        requests: how many there had been at the end of each round.
        series: by what was measured, a value for each round.
        statuses: how many requests of a kind got a status.
        wrong: answers with another status than they must have.
        seconds: how long it took.
    """

    requests: list[float] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def risen(self) -> dict[str, tuple[Rise, Bound]]:
        return {n: (rise(self.requests, v), bound(n)) for n, v in self.series.items()}

    def grown(self) -> list[str]:
        """One line for each series that is not flat after warm-up."""
        return [
            f"{name}: {r.level:.1f} after warm-up, then {r.by_slope:+.1f} by slope and "
            f"{r.by_level:+.1f} by level in {r.requests:.0f} requests; at most {r.allowed(b):.1f}"
            for name, (r, b) in self.risen().items()
            if not r.within(b)
        ]


def bound(name: str) -> Bound:
    kinds = {"MiB": MEMORY, "descriptors": DESCRIPTORS, "latency": LATENCY}
    return kinds[name.rpartition(" ")[2]]


def soak(
    found: Bench, kinds: Sequence[Kind], count: int, timed: Sequence[str],
    pace: float | None = A_SECOND,
) -> Soak:  # fmt: skip
    """Sends about so many requests in rounds; after each, with none in flight, looks at the server.

    Args:
        timed: kinds whose latency is a series.
        pace: requests begun a second; None for as fast as they are answered.
    """
    draw = random.Random(1)  # noqa: S311
    result, begin = Soak(), time.monotonic()
    rounds = min(ROUNDS, count // A_ROUND)
    each = count // rounds
    pack = [kind for kind in kinds for _ in range(kind.weight)]
    queue: list[Kind] = []
    names = [path.stem for path in sorted(found.store.glob("*.mar"))]
    with ThreadPoolExecutor(CLIENTS) as pool:
        for number in range(rounds):
            while len(queue) < each:
                queue += draw.sample(pack, len(pack))
            now, queue = queue[:each], queue[each:]
            start = time.monotonic()
            at = [start + i / pace if pace else 0.0 for i in range(each)]
            taken = list(pool.map(lambda k, t: send(found, k, t, k.name in timed), now, at))
            for kind, (status, _) in zip(now, taken, strict=True):
                result.statuses[kind.name, status] += 1
                if status != kind.status:
                    result.wrong.append(f"round {number}: {kind.name} got {status}")
            result.requests.append((number + 1) * each)
            for name in timed:
                values = [r for k, (_, r) in zip(now, taken, strict=True) if k.name == name]
                key = f"{name} latency"
                result.series.setdefault(key, []).append(float(np.quantile(values, 0.1)))
            look(found, names, result.series)
    result.seconds = time.monotonic() - begin
    return result


def send(found: Bench, kind: Kind, at: float, timed: bool) -> tuple[int, float]:
    """One request, not before its time; its status, and its latency in calibrations."""
    time.sleep(max(0.0, at - time.monotonic()))
    if not kind.status:
        leave(found, kind)
        return 0, 0.0
    unit = calibrate(kind.work) if timed else 1.0
    reply = found.ask(kind.body, kind.model, **kind.headers)
    return reply.status, reply.seconds / unit


def leave(found: Bench, kind: Kind) -> None:
    """Sends the request, or half of it, and goes without waiting for the answer."""
    address = found.server.settings.ports["predictions"]
    head = f"POST /predictions/{kind.model} HTTP/1.1\r\nHost: x\r\n"
    whole = len(kind.body) * (1 + kind.name.startswith("half"))
    with socket.create_connection(address, timeout=60) as s:
        s.sendall(f"{head}Content-Length: {whole}\r\n\r\n".encode() + kind.body)


def look(found: Bench, names: Sequence[str], series: dict[str, list[float]]) -> None:
    """Resident memory and open descriptors of the front end and of each model's workers."""
    idle(found, names)
    groups = {"front end": [found.server.state.pid], **{n: found.pids(n) for n in names}}
    idle(found, names)
    for name, pids in groups.items():
        processes = [psutil.Process(pid) for pid in pids]
        memory = sum(p.memory_info().rss for p in processes) / 2**20
        series.setdefault(f"{name} MiB", []).append(memory)
        series.setdefault(f"{name} descriptors", []).append(sum(p.num_fds() for p in processes))


def idle(found: Bench, names: Sequence[str]) -> None:
    """Waits for what clients left behind: no connection of a client is open at the front end."""
    front = psutil.Process(found.server.state.pid)
    ports = {port for _, port in found.server.settings.ports.values()}
    end = time.monotonic() + 20
    while time.monotonic() < end:
        held = [c for c in front.net_connections("tcp") if c.status != psutil.CONN_LISTEN]
        if not any(c.laddr.port in ports for c in held):
            return
        time.sleep(0.05)


def table(result: Soak) -> str:
    """The figures in Markdown."""
    lines = [
        "| measured | after warm-up | rise by slope | rise by level | at most |",
        "|---|---|---|---|---|",
    ]
    for name, (r, b) in result.risen().items():
        cells = f"{r.level:.1f} | {r.by_slope:+.1f} | {r.by_level:+.1f} | {r.allowed(b):.1f}"
        lines.append(f"| {name} | {cells} |")
    lines += ["", "| request | status | count |", "|---|---|---|"]
    for (name, status), count in sorted(result.statuses.items()):
        lines.append(f"| {name} | {status or 'left'} | {count:,} |")
    return "\n".join(lines) + "\n"
