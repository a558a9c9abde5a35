"""Open loops: a request is sent when it is due, however many are still unanswered.

Latency counts from when a request was due. One thread drives all plain HTTP connections, so that
a request costs about what it costs a closed loop; other protocols have a thread each.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue

from qpstest.arrivals import Arrivals
from qpstest.board import Board
from qpstest.http_answer import AnswerReader, NotHttpError
from qpstest.http_api import HttpTarget, Judge, failure, receive, split_url
from qpstest.load import Reply, Session, Tally

LATE = 0.005
"""Seconds after it was due from which a request counts as sent late."""
LONGEST_WAIT = 0.1
"""Seconds between two looks at whether the window was ended from outside."""
NEVER = (math.inf, -1)
UNSENT = Reply("unsent", "no connection was free before its time limit")


class Window:
    """One process's part of an open-loop window: what is due, and what became of it.

    Args:
        arrivals: the schedule.
        board: counts for all processes.
        begin: ``time.perf_counter()`` at the schedule's 0.
        timeout: seconds for a request.
        share, shares: which part of the schedule is this process's.
    """

    def __init__(
        self,
        arrivals: Arrivals,
        board: Board,
        begin: float,
        timeout: float,
        share: int = 0,
        shares: int = 1,
    ):
        self.tally = Tally()
        self._board = board
        self._schedule: Iterator[tuple[float, int]] = arrivals.schedule(share, shares)
        self._begin = begin
        self._patience = timeout if arrivals.patience is None else arrivals.patience
        self._open = 0
        self._last_due = begin
        self._over = 0
        share_within, self._limit = arrivals.limit or (0.0, math.inf)
        self._most_over = 1 + (1 - share_within) * arrivals.total / shares
        self._next = next(self._schedule, NEVER)

    @property
    def next_due(self) -> float:
        """When the next request is due; infinite once there is none."""
        return self._begin + self._next[0]

    def take(self) -> tuple[float, int]:
        """(when it was due, number) of the next request, which is sent now."""
        due, number = self.next_due, self._next[1]
        if number >= 0:
            self._open += 1
            self._last_due = due
            self._board.begin(due)
        self._next = next(self._schedule, NEVER)
        return due, number

    def sent(self, due: float, number: int, now: float) -> None:
        """Notes how late a request was sent."""
        self.tally.sent += 1
        if number >= 0:
            self.tally.lateness.append(now - due)
            self.tally.late += now - due > LATE

    def answered(self, due: float, number: int, reply: Reply, ended: float) -> None:
        """Notes an answer, or that there is none."""
        if number < 0 or self._board.is_stopped():
            return
        self._open -= 1
        self.tally.add(reply, ended - due, ended)
        self._board.answered(not reply.kind)
        if reply.kind or ended - due > self._limit:
            self._over += 1
            if self._over > self._most_over and self._limit < math.inf and self._next[1] >= 0:
                self._next = NEVER
                self.tally.cut = True

    def is_over(self, now: float) -> bool:
        """Whether all is answered, or nothing more is waited for."""
        if self._board.is_stopped():
            return True
        due, number = self._next
        if number >= 0 or due < 0:
            return False
        return self._open == 0 or now > self._last_due + self._patience

    def wait(self, now: float) -> float:
        """Seconds until something is to be done."""
        return min(max(0.0, self.next_due - now), LONGEST_WAIT)


class Channel:
    """A connection and the request that is on it."""

    __slots__ = (
        "answer",
        "began",
        "came",
        "due",
        "number",
        "rest",
        "sent",
        "sock",
        "used",
        "watched",
    )

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.used = False
        self.watched = select.EPOLLIN
        self.begin((), 0.0, -1, 0.0)

    def begin(self, request: Sequence[bytes], due: float, number: int, now: float) -> None:
        self.answer = AnswerReader()
        self.rest: Sequence[bytes | memoryview] = request
        self.due, self.number, self.began = due, number, now
        self.sent = self.came = 0.0


class HttpDriver:
    """All connections of one process on one thread.

    Args:
        target: where requests go; not over TLS.
        connections: the most that are open at once; further requests wait for one.
    """

    def __init__(self, target: HttpTarget, connections: int, window: Window):
        _, host, port = split_url(target.url)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._family, self._address = found[0], found[4]
        self._target = target
        self._requests = target.requests()
        self._judge = Judge(target)
        self._connections = connections
        self._window = window
        self._poll = select.epoll()
        self._busy: dict[int, Channel] = {}
        self._idle: dict[int, Channel] = {}
        self._waiting: deque[tuple[float, int]] = deque()

    def run(self) -> Tally:
        window = self._window
        clock = time.perf_counter
        with contextlib.closing(self._poll):
            now = clock()
            while not window.is_over(now):
                while window.next_due <= now:
                    self._waiting.append(window.take())
                while self._waiting and self._send_next(now):
                    now = clock()
                window.tally.waited = max(window.tally.waited, len(self._waiting))
                self._expire(now)
                for descriptor, event in self._events(window.wait(clock())):
                    self._happened(descriptor, event)
                now = clock()
            self._give_up(now)
        return window.tally

    def _events(self, seconds: float) -> list[tuple[int, int]]:
        """What happened; epoll alone would wait whole milliseconds."""
        descriptor = self._poll.fileno()
        if seconds > 0 and descriptor < 1000:
            ready, _, _ = select.select((descriptor,), (), (), seconds)
            if not ready:
                return []
            seconds = 0.0
        return self._poll.poll(seconds)

    def _send_next(self, now: float) -> bool:
        """Sends the request that has waited longest; False where no connection is free."""
        if not self._idle and len(self._busy) >= self._connections:
            return False
        due, number = self._waiting.popleft()
        self._window.sent(due, number, now)
        self._send(due, number, now, self._idle.popitem()[1] if self._idle else None)
        return True

    def _send(self, due: float, number: int, now: float, channel: Channel | None) -> None:
        """Sends a request on this connection, else on a new one."""
        try:
            channel = channel or self._connect()
        except OSError as e:
            self._window.answered(due, number, failure(e, "unreachable"), time.perf_counter())
            return
        channel.begin(self._requests[number % len(self._requests)], due, number, now)
        self._busy[channel.sock.fileno()] = channel
        self._write(channel)

    def _connect(self) -> Channel:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(BlockingIOError):
                sock.connect(self._address)
            self._poll.register(sock.fileno(), select.EPOLLIN)
        except OSError:
            sock.close()
            raise
        return Channel(sock)

    def _write(self, channel: Channel) -> None:
        try:
            sent = channel.sock.sendmsg(channel.rest)
        except BlockingIOError:
            sent = 0
        except ConnectionRefusedError as e:
            self._end(channel, failure(e, "reset"))
            return
        except OSError:
            """It is closed: its answer may be there already, and else the next event says so."""
            channel.rest, sent = (), 0
        for part in channel.rest:
            if sent < len(part):
                break
            sent -= len(part)
            channel.rest = channel.rest[1:]
        watched = select.EPOLLIN
        if channel.rest:
            channel.rest = (memoryview(channel.rest[0])[sent:], *channel.rest[1:])
            watched |= select.EPOLLOUT
        else:
            channel.sent = time.perf_counter()
        if channel.watched != watched:
            channel.watched = watched
            self._poll.modify(channel.sock.fileno(), watched)

    def _happened(self, descriptor: int, event: int) -> None:
        channel = self._busy.get(descriptor)
        if channel is None:
            if idle := self._idle.pop(descriptor, None):  # the server closed it
                self._close(idle)
            return
        if event & select.EPOLLOUT and channel.rest:
            self._write(channel)
        if not event & (select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP):
            return
        try:
            data = receive(channel.sock)
            if not channel.came:
                channel.came = time.perf_counter()
            if channel.answer.feed(data):
                self._finish(channel, time.perf_counter())
        except BlockingIOError:
            return
        except (OSError, NotHttpError) as e:
            if channel.used and not channel.came and isinstance(e, ConnectionError):
                # The server closed it while it was idle: no answer is lost.
                del self._busy[descriptor]
                self._close(channel)
                self._send(channel.due, channel.number, channel.began, None)
            else:
                self._end(channel, failure(e, "reset"))

    def _finish(self, channel: Channel, ended: float) -> None:
        descriptor = channel.sock.fileno()
        reply = self._judge.reply(channel.number % len(self._requests), channel.answer)
        sent = channel.sent or channel.came
        times = (sent - channel.began, channel.came - sent, ended - channel.came)
        self._window.answered(channel.due, channel.number, Reply(*reply[:3], *times), ended)
        del self._busy[descriptor]
        channel.used = True
        if channel.rest or b"\r\nconnection: close" in channel.answer.head:
            self._close(channel)
        else:
            self._idle[descriptor] = channel

    def _end(self, channel: Channel, reply: Reply) -> None:
        """Ends a request whose connection is of no more use."""
        del self._busy[channel.sock.fileno()]
        self._close(channel)
        self._window.answered(channel.due, channel.number, reply, time.perf_counter())

    def _close(self, channel: Channel) -> None:
        channel.sock.close()  # which takes it out of the poll, too

    def _expire(self, now: float) -> None:
        """Ends what has taken longer than a request may; the oldest come first."""
        limit = now - self._target.timeout
        while self._busy:
            channel = next(iter(self._busy.values()))
            if channel.began > limit:
                break
            self._end(channel, Reply("timeout", "timed out"))
        while self._waiting and self._waiting[0][0] < limit:
            due, number = self._waiting.popleft()
            self._window.tally.unsent += number >= 0
            self._window.answered(due, number, UNSENT, now)

    def _give_up(self, now: float) -> None:
        for channel in list(self._busy.values()):
            self._end(channel, Reply("timeout", "unanswered when the window ended"))
        for due, number in self._waiting:
            self._window.tally.unsent += number >= 0
            self._window.answered(due, number, UNSENT, now)
        for channel in self._idle.values():
            self._close(channel)


def run_sessions(make: Callable[[], Session], connections: int, window: Window) -> Tally:
    """The same with a thread a connection, for sessions that wait for their answers."""
    tasks: SimpleQueue[tuple[float, int] | None] = SimpleQueue()
    lock = threading.Lock()
    faults: list[BaseException] = []
    threads: list[threading.Thread] = []
    idle = 0

    def caller() -> None:
        nonlocal idle
        try:
            with contextlib.closing(make()) as session:
                fill = 0
                while task := tasks.get():
                    due, number = task
                    now = time.perf_counter()
                    fill += number < 0
                    with lock:
                        window.sent(due, number, now)
                    reply = session.call(number if number >= 0 else fill)
                    ended = time.perf_counter()
                    with lock:
                        idle += 1
                        window.answered(due, number, reply, ended)
        except BaseException as e:
            faults.append(e)

    while not faults:
        now = time.perf_counter()
        with lock:
            if window.is_over(now):
                break
            while window.next_due <= now:
                if idle > 0:
                    idle -= 1
                elif len(threads) < connections:
                    threads.append(threading.Thread(target=caller, daemon=True))
                    threads[-1].start()
                else:
                    idle -= 1  # it waits for the next that is free
                    window.tally.waited = max(window.tally.waited, -idle)
                tasks.put(window.take())
            wait = window.wait(now)
        time.sleep(min(wait, LATE))
    for _ in threads:
        tasks.put(None)
    if faults:
        raise faults[0]
    with lock:
        return window.tally


def run_batches(
    handle: Callable[[Sequence[int]], list[Reply]], batch: int, window: Window
) -> Tally:
    """The same in this process: what is due is handled at most ``batch`` at a time."""
    waiting: deque[tuple[float, int]] = deque()
    now = time.perf_counter()
    while not window.is_over(now):
        while window.next_due <= now:
            waiting.append(window.take())
        if not waiting:
            time.sleep(window.wait(now))
            now = time.perf_counter()
            continue
        taken = [waiting.popleft() for _ in range(min(batch, len(waiting)))]
        for due, number in taken:
            window.sent(due, number, due)  # the wait is for earlier batches, as in a server
        replies = handle([max(number, 0) for _, number in taken])
        now = time.perf_counter()
        for (due, number), reply in zip(taken, replies, strict=True):
            window.answered(due, number, reply, now)
    return window.tally
