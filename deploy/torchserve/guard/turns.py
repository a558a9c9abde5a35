"""Who of a model's clients is asked for next: one that has left costs nobody anything."""

from __future__ import annotations

from typing import Protocol

from deploy.torchserve.guard.http import Refusal


class Waiter(Protocol):
    """One who waits for a turn."""

    def go(self) -> None:
        """It is this one's turn."""


class Turns:
    """The requests of one model.

    Args:
        name: the model's name, for the message.
        most: requests that TorchServe has at once: one batch computed and one ready, a worker.
        waiting: further requests that wait here.
    """

    def __init__(self, name: str, most: int, waiting: int):
        self.name = name
        self.most = most
        self.waiting = waiting
        self.running = 0
        self._queue: dict[Waiter, None] = {}

    def enter(self, waiter: Waiter) -> None:
        """Gives the turn at once or later.

        Raises:
            Refusal: as many wait as may.
        """
        if self.running < self.most:
            self.running += 1
            waiter.go()
        elif len(self._queue) < self.waiting:
            self._queue[waiter] = None
        else:
            raise Refusal(
                503,
                f"model {self.name} has no worker to serve inference request: {self.most} are in"
                f" work and {self.waiting} wait, which is the most (--queue); ask again later",
            )

    def leave(self) -> None:
        """One turn is over."""
        if self._queue:
            first = next(iter(self._queue))
            del self._queue[first]
            first.go()
        else:
            self.running -= 1

    def forget(self, waiter: Waiter) -> None:
        """One that waits has left."""
        self._queue.pop(waiter, None)
