"""The hub's threads: each takes waiting pictures of any workers through the GPU to their answers.

All threads do the same. One of them at a time waits for the workers' requests and takes what is
there, up to a full group; it then decodes it, queues the model, waits and answers, while the next
thread takes more. So a lone picture changes threads nowhere, and under load one group is decoded
while the model runs on another.
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
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from handlers.gpu.hub import wire

logger = logging.getLogger(__name__)

THREADS = 4
"""Groups in work at once: two that are decoded, one that the model runs on, one being answered."""
FIRST_S = 60.0
LINGER_S = 3.0
"""Seconds that the hub waits for its first worker, and that it stays without any."""
BROKEN = 70
"""Exit status after an error that leaves the GPU's context unusable."""

Rows = NDArray[np.float32]


@dataclass
class Job:
    """One worker's request.

    Attributes:
        answers: where each picture's rows belong, float32, in the worker's memory.
        found: rows of each picture.
        left: pictures that are not answered yet.
    """

    connection: socket.socket
    number: int
    answers: list[Rows]
    found: list[int]
    places: list[Sequence[float]]
    left: int
    stages: dict[str, float] = field(default_factory=dict)
    error: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Pixels(NamedTuple):
    """A picture that its worker decoded: ``[h, w, 3]`` uint8 RGB."""

    pixels: NDArray[np.uint8]


class Picture(NamedTuple):
    """One picture of a job, as ``handlers.gpu.pictures.Source``.

    Attributes:
        place: of the picture in its job.
        data: the file's bytes, in the worker's memory.
        picture: where the worker decoded it: its pixels.
        every: look at all of its boxes.
    """

    job: Job
    place: int
    height: int
    width: int
    data: memoryview
    picture: Any
    every: bool


class Work(Protocol):
    """What is done with a group of pictures; every method is called by several threads.

    Attributes:
        chunk: most pictures of a group.
        slot: bytes of one picture's answer.
    """

    chunk: int
    slot: int

    def decode(self, pictures: Sequence[Picture]) -> Any: ...

    def start(self, pictures: Sequence[Picture], decoded: Any) -> Any: ...

    def finish(
        self, pictures: Sequence[Picture], ticket: Any
    ) -> tuple[Sequence[Rows], Sequence[Sequence[float]], dict[str, float]]:
        """Waits; the rows and the place of each picture, and milliseconds per stage."""
        ...


class Hub:
    """Serves workers until the last one has gone.

    Args:
        listener: a listening Unix socket.
        greeting: what every worker is told first.
        work: None where this machine cannot run the model: the greeting says why.
        may_go: whether nobody is about to connect; called before the hub ends.
    """

    def __init__(
        self,
        listener: socket.socket,
        greeting: Mapping[str, Any],
        work: Work | None,
        may_go: Callable[[], bool],
    ):
        self.greeting = {**greeting, "pid": os.getpid()}
        self.work = work
        self.may_go = may_go
        self._waiting: deque[Picture] = deque()
        self._arenas: dict[socket.socket, wire.Arena] = {}
        self._clients: set[socket.socket] = set()
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._alone = time.monotonic() + FIRST_S - LINGER_S
        self._taking = threading.Lock()
        self._ended = threading.Event()

    def serve(self) -> None:
        """Returns once no worker has been there for a while."""
        for _ in range(THREADS):
            threading.Thread(target=self._serve, daemon=True).start()
        self._ended.wait()

    def _serve(self) -> None:
        """A thread that ends badly ends the process: its workers start another."""
        try:
            while True:
                with self._taking:
                    group = self._taken()
                if not group or self.work is None:
                    self._ended.set()
                    return
                self._through(self.work, group)
        except BaseException:
            logger.exception("the hub ends")
            os._exit(1)

    def _taken(self) -> list[Picture]:
        """Waits for pictures and takes those that are there, of one kind; none to end the hub."""
        while True:
            self._hear(0.0 if self._waiting else 0.5)
            if self._waiting:
                break
            if self._clients:
                self._alone = time.monotonic()
            elif time.monotonic() - self._alone > LINGER_S and self.may_go():
                return []
        most = self.work.chunk if self.work else 1
        group = [self._waiting.popleft()]
        while self._waiting and len(group) < most and self._waiting[0].every == group[0].every:
            group.append(self._waiting.popleft())
        return group

    def _hear(self, patience: float) -> None:
        """Reads what has come from workers, new ones included."""
        for key, _ in self._selector.select(patience):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.fileobj, socket.socket):
                self._read(key.fileobj)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", peer)[1] != os.getuid():
            connection.close()
            return
        try:
            wire.send(connection, self.greeting)
        except wire.Gone:
            connection.close()
            return
        self._clients.add(connection)
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        try:
            message, fd = wire.receive(connection)
            if fd is not None:
                # The old one goes when its last picture has: they look into it.
                self._arenas[connection] = wire.Arena(fd, int(message["arena"]))
            self._waiting.extend(self._pictures(connection, message))
        except (wire.Gone, KeyError, ValueError, TypeError, IndexError) as e:
            if not isinstance(e, wire.Gone):
                logger.error("a worker's message was not understood: %s", e)
            self._selector.unregister(connection)
            self._clients.discard(connection)
            self._arenas.pop(connection, None)
            connection.close()

    def _pictures(self, connection: socket.socket, message: Mapping[str, Any]) -> list[Picture]:
        if self.work is None:
            raise wire.Gone("asked in spite of the greeting")
        view, slot = self._arenas[connection].view, self.work.slot
        rows = message["pictures"]
        answers = [
            np.frombuffer(view[i * slot : (i + 1) * slot], np.float32) for i in range(len(rows))
        ]
        places: list[Sequence[float]] = [()] * len(rows)
        job = Job(connection, message["number"], answers, [0] * len(rows), places, len(rows))
        found = []
        for i, (begin, length, height, width, shape) in enumerate(rows):
            data = view[begin : begin + length]
            pixels = Pixels(np.frombuffer(data, np.uint8).reshape(shape)) if shape else None
            found.append(Picture(job, i, height, width, data, pixels, message["every"]))
        return found

    def _through(self, work: Work, group: Sequence[Picture]) -> None:
        """One group, from its files to its answers."""
        begin = time.perf_counter()
        try:
            decoded = work.decode(group)
            stages = {"decode": (time.perf_counter() - begin) * 1e3}
            ticket = work.start(group, decoded)
            rows, places, later = work.finish(group, ticket)
        except RuntimeError as e:
            self._went_wrong(work, group, e)
            return
        share = {k: v / len(group) for k, v in {**stages, **later}.items()}
        for picture, found, place in zip(group, rows, places, strict=True):
            job, flat = picture.job, found.reshape(-1)
            job.answers[picture.place][: len(flat)] = flat
            job.found[picture.place] = len(found)
            job.places[picture.place] = place
            self._done(picture, share)

    def _went_wrong(self, work: Work, group: Sequence[Picture], error: RuntimeError) -> None:
        """Each picture alone: one worker's must not fail another's."""
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "CUDA error" in said and "out of memory" not in said:
            logger.error("the GPU's context cannot be used any more, the hub ends: %s", said)
            os._exit(BROKEN)
        if len(group) == 1:
            group[0].job.error = group[0].job.error or said
            self._done(group[0], {})
            return
        for picture in group:
            self._through(work, [picture])

    def _done(self, picture: Picture, share: Mapping[str, float]) -> None:
        job = picture.job
        with job.lock:
            job.left -= 1
            for stage, ms in share.items():
                job.stages[stage] = job.stages.get(stage, 0.0) + ms
            if job.left:
                return
        answer = {
            "number": job.number,
            "error": job.error,
            "found": job.found,
            "places": job.places,
            "stages": {k: round(v, 4) for k, v in job.stages.items()},
        }
        try:
            wire.send(job.connection, answer)
        except wire.Gone:
            logger.info("a worker went before its answer")
