"""What all connections of one guard process share."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Protocol

from deploy.kserve.models import Model
from deploy.torchserve.guard import limits
from deploy.torchserve.guard.counts import Counts
from deploy.torchserve.guard.http import PARAMETERS, Head, Refusal, unread
from deploy.torchserve.guard.turns import Turns
from deploy.torchserve.guard.upstream import Pool

BY_VERSION = (b"predictions", b"explanations")
"""First parts of the paths whose third part is a version."""


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

    Args:
        counts: of all processes.

    Attributes:
        held: bytes of bodies that came and are not answered.
        guests: open connections, those that were answered last at the end.
        refused: refusals by their reason, since the last line of the log.
        models: what is said of each in other protocols.
        most: connections that there may be.
    """

    def __init__(self, given: limits.Given, most: int, counts: Counts | None = None):
        self.asked: set[Asked] = set()
        self.models: dict[str, Model] = {}
        self._before = set[Asked]()
        self.change(given)
        self.most = most
        self.held = 0
        self.stopping = False
        self.guests: dict[Guest, None] = {}
        self.refused: Counter[str] = Counter()
        self.counts = counts or Counts()
        self.pool = Pool(given.socket)
        self.turns = {name.encode(): Turns(name, *m) for name, m in given.models.items()}
        self.other = Turns("of another name", 16, 100)

    def change(self, given: limits.Given) -> None:
        """Other versions are served: of what comes, and of what waits here."""
        self.given = given
        self.models.clear()
        self.models |= {name: Model.read(told) for name, told in given.described.items()}
        self._before = set(self.asked)

    def count(self, reason: str) -> None:
        """Notes a refusal."""
        self.refused[reason] += 1
        self.counts.add(reason)

    @property
    def changed(self) -> bool:
        """Whether all that TorchServe had before the last change is answered."""
        self._before &= self.asked
        return not self._before

    def addressed(self, head: Head) -> Head:
        """The head with a version by its name in TorchServe.

        Raises:
            Refusal: that version is not served.
        """
        what, *rest = head.path
        known = self.given.versions.get(rest[0].decode("latin-1")) if rest else None
        if known is None or len(rest) < 2 or what not in BY_VERSION:
            return head
        asked = rest[1].decode("latin-1")
        if asked not in known:
            name = rest[0].decode("latin-1")
            raise Refusal(404, f"no version {asked} of {name}; served: {', '.join(known)}")
        rest[1] = known[asked].encode()
        return replace(head, target=b"/" + b"/".join((what, *rest)))

    def require_read(self, head: Head) -> None:
        """Raises ``Refusal`` for settings that a model's archive would drop."""
        what, *rest = head.path
        if what == b"predictions" and rest and any(n.lower() == PARAMETERS for n, _ in head.fields):
            name = rest[0].decode("latin-1")
            known = self.models.get(name)
            if name in self.given.models and (known is None or not known.settings):
                raise unread(name)

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
            "memory_full",
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
