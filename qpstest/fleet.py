"""The child processes that make the load, seen from the parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, cast

from handlers.errors import KitError
from qpstest import agent
from qpstest.arrivals import LEAD, Arrivals
from qpstest.board import Board, Progress
from qpstest.load import Reply, Tally

START_LIMIT = 300.0
"""Seconds for a child to load its model."""
POLL = 0.1
BEGIN_AFTER = 0.1
"""Seconds in which all processes hear of an open loop's schedule."""


class WindowInterruptedError(Exception):
    """Ctrl-C came while a window ran.

    Attributes:
        tally: what had been measured, where the children could still say.
        started: when the window's first counted request began.
    """

    def __init__(self, tally: Tally | None, started: float):
        super().__init__("interrupted")
        self.tally = tally
        self.started = started


class Fleet:
    """Fresh processes (agents), one per target, that stay until the fleet is closed.

    Args:
        targets: one for each process.
        environment: set for the children only, for example ``OMP_NUM_THREADS``.

    Raises:
        KitError: a child could not load its target; the message is the child's.
    """

    def __init__(
        self, targets: Sequence[agent.Target], environment: Mapping[str, str] | None = None
    ):
        context = multiprocessing.get_context("spawn")
        self._board = Board(context)
        pairs = [context.Pipe() for _ in targets]
        self._agents = [ours for ours, _ in pairs]
        self._report, report = context.Pipe()
        theirs = [connection for _, connection in pairs]
        self._host = context.Process(
            target=agent.host, args=(report, theirs, self._board, list(targets))
        )
        try:
            with _environment(environment or {}), _children_ignore_ctrl_c():
                self._host.start()
            for connection in (*theirs, report):
                connection.close()
            self.infos = cast(list[dict[str, Any]], self._collect(START_LIMIT))
        except BaseException:
            self.close()
            raise

    @property
    def parent(self) -> int:
        """Process id of the processes' parent."""
        return self._host.pid or 0

    def run(
        self,
        callers: int,
        requests: int,
        seconds: float = 0.0,
        lead: int = 0,
        show: Callable[[Progress], None] = lambda _: None,
    ) -> tuple[Tally, float, list[int]]:
        """One window of load.

        Args:
            callers: requests in flight, shared out over the processes.
            requests: counted ones; ignored where ``seconds`` is above 0.
            lead: uncounted ones before.
            show: called about ten times a second.

        Returns:
            what was measured, the window's length in seconds, resident bytes of each process.

        Raises:
            WindowInterruptedError: Ctrl-C.
        """
        self._board.open(requests, lead, seconds)
        shares = share_out(callers, len(self._agents))
        return self._window({n: ("run", share) for n, share in enumerate(shares) if share}, show)

    def arrive(
        self,
        arrivals: Arrivals,
        connections: int,
        timeout: float,
        show: Callable[[Progress], None] = lambda _: None,
    ) -> tuple[Tally, float, list[int]]:
        """One window of an open loop; returns and raises as ``run``.

        Args:
            connections: the most that are open at once, shared out over the processes.
            timeout: seconds for a request.
        """
        self._board.open(0)
        parts = len(self._agents)
        begin = time.perf_counter() + LEAD + BEGIN_AFTER
        most = max(1, connections // parts)
        orders = {
            n: ("arrive", agent.Arrive(arrivals, begin, n, parts, most, timeout))
            for n in range(parts)
        }
        return self._window(orders, show)

    def _window(
        self, orders: Mapping[int, tuple[str, Any]], show: Callable[[Progress], None]
    ) -> tuple[Tally, float, list[int]]:
        busy = list(orders)
        try:
            for number, order in orders.items():
                self._agents[number].send(order)
            tallies = self._collect(None, busy, lambda: show(self._board.progress()))
        except KeyboardInterrupt:
            raise WindowInterruptedError(*self._give_up(busy)) from None
        return self._total(cast(list[Tally], tallies))

    def ask(self, number: int) -> Reply:
        """One request outside of any window."""
        self._agents[0].send(("ask", number))
        return cast(Reply, self._collect(None, [0])[0])

    def close(self) -> None:
        """End all children."""
        for connection in self._agents:
            with contextlib.suppress(OSError):
                connection.send(("end",))
        if self._host.pid is not None:
            self._host.join(2.0)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._host.pid, signal.SIGKILL)  # the host and all agents, if any is left
            self._host.kill()
            self._host.join()
        for connection in (*self._agents, self._report):
            connection.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _total(self, tallies: list[Tally]) -> tuple[Tally, float, list[int]]:
        total = Tally()
        for tally in tallies:
            total.merge(tally)
        started = self._board.progress().started
        return total, max(0.0, total.ended - started), [t.rss for t in tallies]

    def _give_up(self, busy: list[int]) -> tuple[Tally | None, float]:
        self._board.stop()
        started = self._board.progress().started
        try:
            tallies = cast(list[Tally], self._collect(2.0, busy))
            return self._total(tallies)[0], started
        except (KitError, RuntimeError, KeyboardInterrupt):
            return None, started

    def _collect(
        self,
        limit: float | None,
        numbers: Sequence[int] | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[Any]:
        """One answer of each of these agents, in their order."""
        numbers = range(len(self._agents)) if numbers is None else numbers
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + limit if limit else None
        while len(answers) < len(numbers):
            waiting = {self._agents[n]: n for n in numbers if n not in answers}
            for connection in wait(list(waiting), POLL):
                number = waiting[cast(Connection, connection)]
                answers[number] = self._answer(number)
            meanwhile()
            if deadline and time.monotonic() > deadline:
                raise KitError(f"a load process did not answer within {limit:.0f} s")
        return [answers[n] for n in numbers]

    def _answer(self, number: int) -> Any:
        try:
            kind, value = self._agents[number].recv()
        except (EOFError, ConnectionResetError):
            raise KitError(self._obituary(number)) from None
        if kind == "error":
            raise KitError(value)
        if kind == "bug":
            raise RuntimeError(f"in a child process:\n{value}")
        return value

    def _obituary(self, number: int) -> str:
        code = None
        with contextlib.suppress(EOFError, OSError):
            while code is None and self._report.poll(1.0):
                who, how = self._report.recv()
                code = how if who == number else None
        if code is None:
            return "a load process ended while it worked"
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        hint = ": out of memory?" if code == -signal.SIGKILL else ""
        return f"a load process was ended {how} while it worked{hint}"


def share_out(total: int, parts: int) -> list[int]:
    """Whole numbers that differ by at most one and add up to ``total``."""
    return [total // parts + (i < total % parts) for i in range(parts)]


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _children_ignore_ctrl_c() -> Iterator[None]:
    """Ctrl-C reaches the whole process group; children that are starting must not die of it."""
    sys.stdout.flush()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
