"""What goes through the GPU server: workers' jobs, their pictures, and the work done with them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from handlers.gpu.server import wire

Rows = NDArray[np.float32]


@dataclass
class Job:
    """One worker's request.

    Attributes:
        answers: where each picture's rows belong, float32, in the worker's memory.
        found: rows of each picture.
        left: pictures that are not done yet.
    """

    connection: socket.socket
    number: int
    answers: list[Rows]
    found: list[int]
    letterboxes: list[Sequence[float]]
    left: int
    stages: dict[str, float] = field(default_factory=dict)
    error: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def done(self, share: Mapping[str, float]) -> dict[str, Any] | None:
        """Counts one picture as done; the whole job's answer after the last."""
        with self.lock:
            self.left -= 1
            for stage, ms in share.items():
                self.stages[stage] = self.stages.get(stage, 0.0) + ms
            if self.left:
                return None
        return {
            "number": self.number,
            "error": self.error,
            "found": self.found,
            "letterboxes": self.letterboxes,
            "stages": {k: round(v, 4) for k, v in self.stages.items()},
        }


class Pixels(NamedTuple):
    """A picture that its worker decoded: ``[h, w, 3]`` uint8 RGB."""

    pixels: NDArray[np.uint8]


class Picture(NamedTuple):
    """One picture of a job, as ``handlers.gpu.pictures.Source``.

    Attributes:
        number: of the picture in its job.
        data: the file's bytes, in the worker's memory.
        picture: where the worker decoded it: its pixels.
        every: look at all of its boxes.
    """

    job: Job
    number: int
    height: int
    width: int
    data: memoryview
    picture: Any
    every: bool


class Started(NamedTuple):
    """A group that is queued on the GPU."""

    pictures: Sequence[Picture]
    ticket: Any
    stages: Mapping[str, float]


class Work(Protocol):
    """What is done with a group of pictures of one kind; a failure is a ``RuntimeError``.

    Attributes:
        chunk: most pictures of a group.
        slot: bytes of one picture's answer.
    """

    chunk: int
    slot: int

    def begin(self) -> None:
        """Called first in every thread."""

    def decode(self, pictures: Sequence[Picture]) -> Any:
        """Called by several threads at once."""

    def start(self, pictures: Sequence[Picture], decoded: Sequence[Any]) -> Any:
        """Queues what ``decode`` gave for these pictures, in one thread."""

    def finish(
        self, pictures: Sequence[Picture], ticket: Any
    ) -> tuple[Sequence[Rows], Sequence[Sequence[float]], dict[str, float]]:
        """Waits for what ``start`` gave, in another thread: the rows and the letterbox of
        each picture, and milliseconds per stage."""
        ...


def read(
    connection: socket.socket, message: Mapping[str, Any], view: memoryview, slot: int
) -> list[Picture]:
    """The pictures of a worker's message (``client``), in the memory that it shares.

    Raises:
        KeyError, ValueError, TypeError, IndexError: it is not one.
    """
    rows = message["pictures"]
    answers = [np.frombuffer(view[i * slot : (i + 1) * slot], np.float32) for i in range(len(rows))]
    if any(answer.nbytes != slot for answer in answers):
        raise ValueError("the answers do not fit into the memory")
    letterboxes: list[Sequence[float]] = [()] * len(rows)
    job = Job(connection, message["number"], answers, [0] * len(rows), letterboxes, len(rows))
    found = []
    for i, (begin, length, height, width, shape) in enumerate(rows):
        data = view[begin : begin + length]
        if len(data) != length:
            raise ValueError("a picture does not lie in the memory")
        pixels = Pixels(np.frombuffer(data, np.uint8).reshape(shape)) if shape else None
        found.append(Picture(job, i, height, width, data, pixels, message["every"]))
    return found


def arena(message: Mapping[str, Any], fd: int) -> wire.Arena:
    """The memory whose file came with a message.

    Raises:
        KeyError, ValueError, TypeError, OverflowError, OSError: no size, or there is no such block.
    """
    size = message.get("arena")
    return wire.Arena(fd, size if isinstance(size, int) else -1)
