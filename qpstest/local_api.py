"""The archive's own handler, run in this process without a server."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.context import LocalContext
from handlers.entry import Entry
from qpstest.http_api import refusal
from qpstest.load import Reply


@dataclass(frozen=True)
class LocalTarget:
    """What is run and on what.

    Attributes:
        folder: the unpacked archive.
        model: its name.
        artefact: "portable" or "accelerated".
        bodies: one request each.
        batch: the most requests that the handler gets at once.
        accept: media type asked for.
        shared: other processes run the same model.
    """

    folder: Path
    model: str
    artefact: str
    bodies: Sequence[bytes]
    batch: int
    accept: str = "application/json"
    shared: bool = False


class LocalModel:
    """A loaded handler; raises ``KitError`` where the archive or a library is missing."""

    def __init__(self, target: LocalTarget):
        self._bodies = target.bodies
        self._context = LocalContext(
            target.folder,
            target.artefact,
            name=target.model,
            batch_size=target.batch,
            headers={"accept": target.accept},
            shared=target.shared,
        )
        self._entry = Entry()
        self._entry.initialize(self._context)

    def info(self) -> dict[str, Any]:
        """Which runtime was loaded, and whether torch came with it."""
        handler = self._entry.handler
        return {
            "runtime": handler.runtime.name,
            "precision": handler.runtime.precision,
            "fallback": handler.fallback,
            "torch_imported": "torch" in sys.modules,
        }

    def handle(self, numbers: Sequence[int]) -> list[Reply]:
        """Answers the bodies of these numbers (modulo the number of bodies) as one batch."""
        rows = [{"body": self._bodies[n % len(self._bodies)]} for n in numbers]
        try:
            answers = self._entry.handle(rows, self._context)
        except Exception as e:  # the server's worker would fail the batch and go on, too
            line = f"{type(e).__name__}: {e}".splitlines()[0][:160]
            return [Reply("500", line)] * len(rows)
        statuses = self._context.statuses
        return [_judge(*pair) for pair in zip(statuses, answers, strict=True)]

    def counters(self) -> dict[str, float]:
        """What the handler has reported so far: milliseconds per stage, "items" and "batches".

        A handler reports a few times a second, so all of them lag behind, by the same batches.
        """
        found = {"items": 0.0, "batches": 0.0, **self._context.stages_ms}
        for (name, outcome), value in self._context.metrics.totals.items():
            if name == "handler_batches":
                found["batches"] += value
            if name == "handler_items" and outcome == "ok":
                found["items"] += value
        return found


def _judge(status: int, answer: bytes) -> Reply:
    if status == 200:
        return Reply("", "", bytes(answer))
    with contextlib.suppress(ValueError, AttributeError):
        message = json.loads(answer).get("message", "")
        return Reply(str(status), str(message)[:160])
    return refusal(status, bytes(answer))
