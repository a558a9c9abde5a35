"""Closed loops: each caller sends its next request as soon as the last one is answered."""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from qpstest.board import END, FILL, Board

MESSAGES_KEPT = 5
"""Different messages kept for each kind of error."""
PAUSE = 0.02
"""Seconds; a server that is not there, or whose queue is full, is not asked thousands of times a
second, which would take the processor from the requests that it does answer."""
PAUSE_AFTER = frozenset({"overload", "refused", "unreachable"})


class Reply(NamedTuple):
    """How one request ended; times in seconds.

    Attributes:
        kind: "" for a right answer, else the kind of error ("overload", "timeout", "400", ...).
        message: one line about the error.
        answer: the body of a right answer.
        send, wait, receive: handing the request to the kernel, waiting for the answer's first
            byte, reading the rest; 0.0 where the protocol's library does not tell.
    """

    kind: str
    message: str = ""
    answer: bytes = b""
    send: float = 0.0
    wait: float = 0.0
    receive: float = 0.0


class Session(Protocol):
    """One caller's connection to the server."""

    def call(self, number: int) -> Reply: ...
    def close(self) -> None: ...


@dataclass
class Tally:
    """What one process measured in one window; times in seconds, memory in bytes.

    Attributes:
        latencies: of the right answers; in an open loop from when a request was due.
        ends: when the right answers had come, by ``time.perf_counter()``.
        lateness: how long after it was due each counted request of an open loop was sent.
        late: how many of them were sent more than 5 ms after.
        unsent: how many never were.
        waited: the most that waited for a free connection at once.
        cut: the window was ended early, since its limit could not be met any more.
        sent: all requests.
        cpu: the processor time that they took together.
    """

    latencies: array[float] = field(default_factory=lambda: array("d"))
    send: float = 0.0
    wait: float = 0.0
    receive: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    messages: dict[str, Counter[str]] = field(default_factory=dict)
    ended: float = 0.0
    cpu: float = 0.0
    sent: int = 0
    ends: array[float] = field(default_factory=lambda: array("d"))
    lateness: array[float] = field(default_factory=lambda: array("d"))
    late: int = 0
    unsent: int = 0
    waited: int = 0
    cut: bool = False
    rss: int = 0
    stages_ms: dict[str, float] = field(default_factory=dict)
    stage_items: float = 0.0
    batches: float = 0.0

    def add(self, reply: Reply, latency: float, ended: float) -> None:
        """Note a counted request."""
        self.ended = max(self.ended, ended)
        if not reply.kind:
            self.latencies.append(latency)
            self.ends.append(ended)
            self.send += reply.send
            self.wait += reply.wait
            self.receive += reply.receive
            return
        self.errors[reply.kind] += 1
        seen = self.messages.setdefault(reply.kind, Counter())
        if reply.message in seen or len(seen) < MESSAGES_KEPT:
            seen[reply.message] += 1

    def merge(self, other: Tally) -> None:
        """Add what another process, caller or window measured."""
        self.latencies.extend(other.latencies)
        self.send += other.send
        self.wait += other.wait
        self.receive += other.receive
        self.errors.update(other.errors)
        for kind, seen in other.messages.items():
            self.messages.setdefault(kind, Counter()).update(seen)
        self.ended = max(self.ended, other.ended)
        self.cpu += other.cpu
        self.sent += other.sent
        self.ends.extend(other.ends)
        self.lateness.extend(other.lateness)
        self.late += other.late
        self.unsent += other.unsent
        self.waited += other.waited
        self.cut = self.cut or other.cut
        for stage, total in other.stages_ms.items():
            self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + total
        self.stage_items += other.stage_items
        self.batches += other.batches


def call_in_loop(session: Session, board: Board, tally: Tally) -> None:
    """One caller: one request in flight until the window is over."""
    fill = 0
    while True:
        began = time.perf_counter()
        number = board.take(began)
        if number == END:
            return
        if number == FILL:
            fill += 1
        began = time.perf_counter()
        reply = session.call(number if number >= 0 else fill)
        tally.sent += 1
        ended = time.perf_counter()
        if number >= 0:
            tally.add(reply, ended - began, ended)
            board.answered(not reply.kind)
        if reply.kind in PAUSE_AFTER:
            time.sleep(PAUSE)


def run_callers(make: Callable[[], Session], callers: int, board: Board) -> Tally:
    """``callers`` threads with a connection each, until the window is over."""
    tallies = [Tally() for _ in range(callers)]
    faults: list[BaseException] = []

    def caller(tally: Tally) -> None:
        try:
            session = make()
            try:
                call_in_loop(session, board, tally)
            finally:
                session.close()
        except BaseException as e:
            faults.append(e)
            board.stop()

    threads = [threading.Thread(target=caller, args=(t,), daemon=True) for t in tallies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    total = Tally()
    for tally in tallies:
        total.merge(tally)
    return total


def run_batches(
    handle: Callable[[Sequence[int]], list[Reply]], callers: int, batch: int, board: Board
) -> Tally:
    """``callers`` requests in flight in this process, answered at most ``batch`` at a time.

    A request's latency counts from the moment its caller's last one was answered, so it holds the
    wait for the batches before its own, as it would behind a server.

    Args:
        handle: takes the numbers of the requests of one batch, gives a reply for each.
    """
    tally = Tally()
    waiting: deque[tuple[int, float]] = deque()
    free = callers
    while True:
        for _ in range(free):
            now = time.perf_counter()
            number = board.take(now)
            if number == END:
                return tally
            waiting.append((number, now))
        taken = [waiting.popleft() for _ in range(min(batch, len(waiting)))]
        replies = handle([max(number, 0) for number, _ in taken])
        tally.sent += len(taken)
        ended = time.perf_counter()
        for (number, began), reply in zip(taken, replies, strict=True):
            if number >= 0:
                tally.add(reply, ended - began, ended)
                board.answered(not reply.kind)
        free = len(taken)
