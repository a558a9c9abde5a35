"""The GPU server's threads: pictures of all workers -> decoded groups -> batches -> answers.

One thread reads the workers' requests, two decode, one queues the model, one waits for the GPU and
answers. Between them lie short queues, so that waiting pictures gather into full groups.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import Queue
from typing import Any

from handlers.gpu.server import jobs, wire
from handlers.gpu.server.jobs import Picture, Started, Work

logger = logging.getLogger(__name__)

DECODERS = 2
"""Threads that decode: on an H200 a second one brought 6,444 pictures a second, one 5,582."""
IN_FLIGHT = 3
"""Batches that are queued on the GPU or not yet answered."""
FIRST_S = 60.0
LINGER_S = 3.0
"""Seconds that the server waits for its first worker, and that it stays without any."""
PATIENCE_S = 10.0
"""Seconds for the rest of a worker's message: one that stands still must not hold up the others."""
BROKEN = 70
"""Exit status after an error that leaves the GPU's context unusable."""


class Waiting:
    """Pictures that wait to be decoded, in the order in which they came."""

    def __init__(self) -> None:
        self._pictures: deque[Picture] = deque()
        self._changed = threading.Condition()

    def put(self, pictures: Sequence[Picture]) -> None:
        with self._changed:
            self._pictures.extend(pictures)
            self._changed.notify()

    def take(self, most: int) -> list[Picture]:
        """Waits for the first picture; takes those that are there, of one kind."""
        with self._changed:
            while not self._pictures:
                self._changed.wait()
            taken = [self._pictures.popleft()]
            while (
                self._pictures and len(taken) < most and self._pictures[0].every == taken[0].every
            ):
                taken.append(self._pictures.popleft())
            if self._pictures:
                self._changed.notify()
            return taken


class Server:
    """Serves workers until the last one has gone.

    Args:
        listener: a listening Unix socket.
        greeting: what every worker is told first.
        work: None where this machine cannot run the model: the greeting says why.
        may_go: whether nobody is about to connect; called before the server ends.
    """

    def __init__(
        self,
        listener: socket.socket,
        greeting: Mapping[str, Any],
        work: Work | None,
        may_go: Callable[[], bool],
    ):
        self.listener = listener
        self.greeting = {**greeting, "pid": os.getpid()}
        self.work = work
        self.may_go = may_go
        self._waiting = Waiting()
        self._decoded: Queue[tuple[list[Picture], Any, float]] = Queue(2)
        self._started: Queue[Started] = Queue()
        self._slots = threading.Semaphore(IN_FLIGHT)
        self._arenas: dict[socket.socket, wire.Arena] = {}
        self._clients: set[socket.socket] = set()

    def serve(self) -> None:
        """Returns once no worker has been there for a while."""
        if self.work is not None:
            for run in (*[self._decode] * DECODERS, self._model, self._answer):
                threading.Thread(target=self._forever, args=(run, self.work), daemon=True).start()
        selector = selectors.DefaultSelector()
        selector.register(self.listener, selectors.EVENT_READ)
        alone = time.monotonic() + FIRST_S - LINGER_S
        while True:
            for key, _ in selector.select(0.5):
                if key.fileobj is self.listener:
                    self._accept(selector)
                elif isinstance(key.fileobj, socket.socket):
                    self._read(key.fileobj, selector)
            if self._clients:
                alone = time.monotonic()
            elif time.monotonic() - alone > LINGER_S and self.may_go():
                return

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError as e:  # too many open files, or the worker has gone again
            logger.error("a worker cannot be let in: %s", e)
            time.sleep(0.1)
            return
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", peer)[1] != os.getuid():
            connection.close()
            return
        connection.settimeout(PATIENCE_S)
        try:
            wire.send(connection, self.greeting)
        except wire.Gone:
            connection.close()
            return
        self._clients.add(connection)
        selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        try:
            message, fd = wire.receive(connection)
            if fd is not None:
                # The old one goes when its last picture has: they look into it.
                self._arenas[connection] = jobs.arena(message, fd)
            if self.work is None:
                raise wire.Gone("asked in spite of the greeting")
            view = self._arenas[connection].view
            self._waiting.put(jobs.read(connection, message, view, self.work.slot))
        except (wire.Gone, LookupError, ValueError, TypeError, OSError, OverflowError) as e:
            if not isinstance(e, wire.Gone):
                logger.error("a worker's message was not understood: %r", e)
            selector.unregister(connection)
            self._clients.discard(connection)
            self._arenas.pop(connection, None)
            connection.close()

    def _forever(self, run: Callable[[Work], None], work: Work) -> None:
        """A thread that ends badly ends the process: its workers start another."""
        try:
            work.begin()
            while True:
                run(work)
        except BaseException:
            logger.exception("the GPU server ends")
            os._exit(1)

    def _decode(self, work: Work) -> None:
        group = self._waiting.take(work.chunk)
        begin = time.perf_counter()
        try:
            decoded = work.decode(group)
        except RuntimeError as e:
            if len(group) == 1:
                self._failed(group, e)
                return
            for picture in group:  # one worker's picture must not fail another's
                self._decode_alone(work, picture)
            return
        self._decoded.put((group, decoded, (time.perf_counter() - begin) * 1e3))

    def _decode_alone(self, work: Work, picture: Picture) -> None:
        try:
            self._decoded.put(([picture], work.decode([picture]), 0.0))
        except RuntimeError as e:
            self._failed([picture], e)

    def _model(self, work: Work) -> None:
        """Queues one batch: the next decoded group, and those that are there and fit beside it."""
        pictures, decoded, ms = self._decoded.get()
        whole = [decoded]
        while len(pictures) < work.chunk:
            with self._decoded.mutex:
                head = self._decoded.queue[0] if self._decoded.queue else None
            if (
                head is None
                or len(head[0]) + len(pictures) > work.chunk
                or head[0][0].every != pictures[0].every
            ):
                break
            more, decoded, longer = self._decoded.get()
            pictures, ms = [*pictures, *more], ms + longer
            whole.append(decoded)
        self._slots.acquire()
        try:
            ticket = work.start(pictures, whole)
        except RuntimeError as e:
            self._slots.release()
            self._failed(pictures, e)
            return
        self._started.put(Started(pictures, ticket, {"decode": ms}))

    def _answer(self, work: Work) -> None:
        pictures, ticket, stages = self._started.get()
        try:
            rows, letterboxes, later = work.finish(pictures, ticket)
        except RuntimeError as e:
            self._failed(pictures, e)
            return
        finally:
            self._slots.release()
        share = {k: v / len(pictures) for k, v in {**stages, **later}.items()}
        for picture, found, letterbox in zip(pictures, rows, letterboxes, strict=True):
            job, flat = picture.job, found.reshape(-1)
            job.answers[picture.number][: len(flat)] = flat
            job.found[picture.number] = len(found)
            job.letterboxes[picture.number] = letterbox
            self._done(picture, share)

    def _failed(self, pictures: Sequence[Picture], error: RuntimeError) -> None:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "CUDA error" in said and "out of memory" not in said:
            logger.error("the GPU's context cannot be used any more, the GPU server ends: %s", said)
            os._exit(BROKEN)
        for picture in pictures:
            picture.job.error = picture.job.error or said
            self._done(picture, {})

    def _done(self, picture: Picture, share: Mapping[str, float]) -> None:
        answer = picture.job.done(share)
        if answer is None:
            return
        try:
            wire.send(picture.job.connection, answer)
        except wire.Gone:
            logger.info("a worker went before its answer")
