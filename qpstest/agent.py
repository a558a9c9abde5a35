"""What runs in each agent, a child process: it loads its target, then makes load in windows."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, cast

import psutil

from handlers.errors import KitError
from qpstest import open_loop
from qpstest.arrivals import Arrivals
from qpstest.board import Board
from qpstest.http_api import HttpSession, HttpTarget, split_url
from qpstest.load import Reply, Session, Tally, run_batches, run_callers
from qpstest.local_api import LocalModel, LocalTarget

Target = HttpTarget | LocalTarget | Any
"""``GrpcTarget`` as well, whose library is imported only when it is used."""


class Arrive(NamedTuple):
    """An agent's part of an open-loop window.

    Attributes:
        arrivals: the whole schedule.
        begin: ``time.perf_counter()`` at its 0.
        share, shares: which part is this agent's.
        connections: the most that it opens.
        timeout: seconds for a request.
    """

    arrivals: Arrivals
    begin: float
    share: int
    shares: int
    connections: int
    timeout: float


class Served:
    """Load over the network.

    Args:
        make: opens a caller's connection.
        plain: the target, where it is asked over HTTP without TLS.
    """

    def __init__(self, make: Callable[[], Session], plain: HttpTarget | None = None):
        self._make = make
        self._plain = plain

    def info(self) -> dict[str, Any]:
        return {}

    def run(self, callers: int, board: Board) -> Tally:
        return run_callers(self._make, callers, board)

    def arrive(self, window: open_loop.Window, connections: int) -> Tally:
        if self._plain is not None:
            return open_loop.HttpDriver(self._plain, connections, window).run()
        return open_loop.run_sessions(self._make, connections, window)

    def ask(self, number: int) -> Reply:
        session = self._make()
        with contextlib.closing(session):
            return session.call(number)


class Local:
    """Load on a handler in this process."""

    def __init__(self, target: LocalTarget):
        self._model = LocalModel(target)
        self._batch = target.batch

    def info(self) -> dict[str, Any]:
        return self._model.info()

    def run(self, callers: int, board: Board) -> Tally:
        return self._counted(lambda: run_batches(self._model.handle, callers, self._batch, board))

    def arrive(self, window: open_loop.Window, connections: int) -> Tally:
        return self._counted(lambda: open_loop.run_batches(self._model.handle, self._batch, window))

    def _counted(self, work: Callable[[], Tally]) -> Tally:
        before = self._model.counters()
        tally = work()
        after = self._model.counters()
        grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
        tally.stage_items = grown.pop("items")
        tally.batches = grown.pop("batches")
        tally.stages_ms = grown
        return tally

    def ask(self, number: int) -> Reply:
        return self._model.handle([number])[0]


def open_target(target: Target) -> Served | Local:
    """The driver for a target."""
    if isinstance(target, LocalTarget):
        return Local(target)
    if isinstance(target, HttpTarget):
        secure, _, _ = split_url(target.url)
        return Served(lambda: HttpSession(target), None if secure else target)
    return Served(target.sessions())


def host(
    report: Connection, connections: list[Connection], board: Board, targets: Sequence[Target]
) -> None:
    """The process that starts the agents, all in one session of their own.

    Linux shares its cores between sessions first; a server has its session, so what it is compared
    with gets one, too. ``report`` tells of agents that ended badly: (number, exit code).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    context = multiprocessing.get_context("spawn")
    agents = []
    for connection, target in zip(connections, targets, strict=True):
        agents.append(context.Process(target=main, args=(connection, board, target), daemon=True))
        agents[-1].start()
        connection.close()
    running = {agent.sentinel: i for i, agent in enumerate(agents)}
    while running:
        for sentinel in wait(list(running)):
            number = running.pop(cast(int, sentinel))
            agents[number].join()
            with contextlib.suppress(OSError):
                report.send((number, agents[number].exitcode))


def main(connection: Connection, board: Board, target: Target) -> None:
    """An agent from start to end.

    It answers ("run", callers), ("arrive", Arrive), ("ask", number) and ("end",); each answer is
    ("done", value), ("error", line) for a user's mistake, or ("bug", traceback).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # what a library prints must not get into the parent's table
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        driver = open_target(target)
        connection.send(("done", driver.info()))
        while True:
            command = connection.recv()
            if command[0] == "end":
                return
            connection.send(("done", _obey(driver, command, board)))
    except EOFError:
        return
    except KitError as e:
        connection.send(("error", str(e)))
    except Exception:
        connection.send(("bug", traceback.format_exc()))
    finally:
        sys.stdout.flush()


def _obey(driver: Served | Local, command: tuple[str, Any], board: Board) -> Tally | Reply:
    action, value = command
    if action == "ask":
        return driver.ask(value)
    gc.collect()
    gc.freeze()
    cpu = time.process_time()
    if action == "arrive":
        order: Arrive = value
        window = open_loop.Window(
            order.arrivals, board, order.begin, order.timeout, order.share, order.shares
        )
        tally = driver.arrive(window, order.connections)
    else:
        tally = driver.run(value, board)
    tally.cpu = time.process_time() - cpu
    tally.rss = resident_bytes(os.getpid())
    return tally


def resident_bytes(pid: int) -> int:
    """A process's resident memory, 0 where it cannot be read."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
