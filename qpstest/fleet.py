"""The child processes that make the load, seen from the parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, cast

from handlers.errors import KitError
from qpstest import agent
from qpstest.board import Board, Progress
from qpstest.load import Reply, Tally

START_LIMIT = 300.0
"""Seconds for a child to load its model."""
POLL = 0.1


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
    """Fresh processes, one per target, that stay until the fleet is closed.

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
        self._children: list[tuple[SpawnProcess, Connection]] = []
        try:
            with _environment(environment or {}), _children_ignore_ctrl_c():
                for target in targets:
                    ours, theirs = context.Pipe()
                    arguments = (theirs, self._board, target)
                    child = context.Process(target=agent.main, args=arguments, daemon=True)
                    child.start()
                    theirs.close()
                    self._children.append((child, ours))
            self.infos = cast(list[dict[str, Any]], self._collect(START_LIMIT))
        except BaseException:
            self.close()
            raise

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
        shares = share_out(callers, len(self._children))
        busy = [pair for pair, share in zip(self._children, shares, strict=True) if share]
        try:
            for (_, connection), share in zip(busy, filter(None, shares), strict=True):
                connection.send(("run", share))
            tallies = self._collect(None, busy, lambda: show(self._board.progress()))
        except KeyboardInterrupt:
            raise WindowInterruptedError(*self._give_up(busy)) from None
        return self._total(cast(list[Tally], tallies))

    def ask(self, number: int) -> Reply:
        """One request outside of any window."""
        first = self._children[:1]
        first[0][1].send(("ask", number))
        return cast(Reply, self._collect(None, first)[0])

    def close(self) -> None:
        """End all children."""
        for child, connection in self._children:
            try:
                connection.send(("end",))
            except OSError:
                child.kill()
        deadline = time.monotonic() + 2.0
        for child, connection in self._children:
            child.join(max(0.0, deadline - time.monotonic()))
            if child.is_alive():
                child.kill()
                child.join()
            connection.close()
        self._children.clear()

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

    def _give_up(self, busy: list[tuple[SpawnProcess, Connection]]) -> tuple[Tally | None, float]:
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
        children: list[tuple[SpawnProcess, Connection]] | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[Any]:
        """One answer of each child, in their order."""
        children = self._children if children is None else children
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + limit if limit else None
        while len(answers) < len(children):
            open_ones = [c for i, (_, c) in enumerate(children) if i not in answers]
            ready = wait(open_ones, POLL)
            for i, (child, connection) in enumerate(children):
                if connection in ready:
                    answers[i] = _answer(child, connection)
            meanwhile()
            if deadline and time.monotonic() > deadline:
                raise KitError(f"a load process did not answer within {limit:.0f} s")
        return [answers[i] for i in range(len(children))]


def share_out(total: int, parts: int) -> list[int]:
    """Whole numbers that differ by at most one and add up to ``total``."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def _answer(child: SpawnProcess, connection: Connection) -> Any:
    try:
        kind, value = connection.recv()
    except (EOFError, ConnectionResetError):
        child.join(1.0)
        code = child.exitcode or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        hint = ": out of memory?" if code == -signal.SIGKILL else ""
        raise KitError(f"a load process was ended {how} while it worked{hint}") from None
    if kind == "error":
        raise KitError(value)
    if kind == "bug":
        raise RuntimeError(f"in a child process:\n{value}")
    return value


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
