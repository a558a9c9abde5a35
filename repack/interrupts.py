"""Ctrl-C and SIGTERM end a repack, also where a library swallows the interrupt."""

from __future__ import annotations

import signal
from types import FrameType

_asked: list[int] = []


class Interrupted(BaseException):
    """The user or the system asked the program to end.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def listen() -> None:
    """Turns SIGINT and SIGTERM into ``Interrupted``, and remembers that they came."""

    def ask(number: int, frame: FrameType | None) -> None:
        _asked.append(number)
        raise Interrupted(number)

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)


def check() -> None:
    """Ends here if a signal came meanwhile.

    PyTorch's ONNX exporter catches every exception and reports it as a model that it does not take.

    Raises:
        Interrupted: a signal came.
    """
    if _asked:
        raise Interrupted(_asked[0])


def pending() -> bool:
    """Whether a signal came."""
    return bool(_asked)
