"""What all connections of one guard process share."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Protocol

from deploy.torchserve.guard import limits
from deploy.torchserve.guard.http import Refusal
from deploy.torchserve.guard.turns import Turns
from deploy.torchserve.guard.upstream import Pool


class Asked(Protocol):
    """A request that TorchServe has."""

    def check(self, now: float) -> None:
        """Ends it where its time is over."""


class Guest(Protocol):
    """A client's connection."""

    def check(self, now: float) -> None:
        """Ends it where its time is over."""

    def pace(self, now: float) -> float | None:
        """Bytes a second of an upload that is not complete; None where there is none to end."""

    def give_way(self, now: float) -> bool:
        """Ends at once where it is idle or slow; returns whether it did."""

    def refuse(self, refusal: Refusal) -> None:
        """Answers with a refusal and closes."""

    def stop(self) -> None:
        """The server stops: this connection takes no further request."""


class House:
    """Shared by all connections of one process.

    Attributes:
        held: bytes of bodies that came and are not answered.
        guests: open connections, those that were answered last at the end.
        refused: refusals by their status, since the last line of the log.
        most: connections that there may be.
    """

    def __init__(self, given: limits.Given, most: int):
        self.given = given
        self.most = most
        self.held = 0
        self.stopping = False
        self.guests: dict[Guest, None] = {}
        self.asked: set[Asked] = set()
        self.refused: Counter[int] = Counter()
        self.pool = Pool(given.socket)
        self.turns = {name.encode(): Turns(name, *m) for name, m in given.models.items()}
        self.other = Turns("of another name", 16, 100)

    def turns_of(self, path: list[bytes]) -> Turns | None:
        """Where a request waits for its turn; None where it asks no model."""
        if len(path) < 2:
            return None
        return self.turns.get(path[1], self.other)

    def make_room(self, now: float) -> None:
        """Ends the slowest upload where more is held than may be.

        Raises:
            Refusal: there is none, so what comes now cannot be held.
        """
        if self.held <= self.given.held:
            return
        paces = ((guest.pace(now), guest) for guest in self.guests)
        slow = min(((p, id(g), g) for p, g in paces if p is not None), default=None)
        full = Refusal(
            503,
            f"requests of {self.given.held >> 20} MiB are being taken or answered, which is the"
            " most: ask again later",
        )
        if slow is None:
            raise full
        slow[2].refuse(full)

    def make_place(self, now: float) -> bool:
        """Ends one of the connections that were not answered for longest, where there are too many.

        Returns:
            Whether there is place for one more.
        """
        if len(self.guests) < self.most:
            return True
        return any(guest.give_way(now) for guest in list(islice(self.guests, 100)))
