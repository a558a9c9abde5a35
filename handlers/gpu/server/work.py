"""A hub's work on the GPU: the same decoding, letterbox, model and boxes as ``Pipeline``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from handlers.boxes import CANDIDATES
from handlers.gpu import pictures
from handlers.gpu.detector import Clock, Detector
from handlers.gpu.server.jobs import Picture, Rows
from handlers.gpu.server.queues import IN_FLIGHT
from handlers.gpu.server.wire import COLUMNS, slot_bytes
from handlers.images import Letterbox
from handlers.runtimes.device import DeviceRuntime

if TYPE_CHECKING:
    from handlers.passport import Passport

Decoded = tuple[list[Tensor], torch.cuda.Event]


class Ticket(NamedTuple):
    """A batch on the GPU.

    Attributes:
        rows: in the host's memory once ``done``; candidates ``[n, K, 7]``, or all boxes ``[M, 7]``.
        buffer: the pinned memory that the rows lie in, to be used again.
    """

    rows: Tensor
    buffer: Tensor | None
    places: list[Letterbox]
    clock: Clock
    done: torch.cuda.Event


class GpuWork:
    """Implements ``jobs.Work``.

    Args:
        runtime: activated here.
    """

    def __init__(self, runtime: DeviceRuntime, passport: Passport):
        self.runtime = runtime
        self.detector = Detector(runtime, passport)
        self.chunk = self.detector.chunk
        self.slot = slot_bytes(passport.settings)
        self._streams = threading.local()
        self._free: SimpleQueue[Tensor] = SimpleQueue()
        for _ in range(IN_FLIGHT):
            self._free.put(torch.empty((self.chunk, CANDIDATES, COLUMNS), pin_memory=True))

    def begin(self) -> None:
        """Each thread has its own current GPU, the first one until told otherwise."""
        torch.cuda.set_device(self.runtime.device)

    def decode(self, group: Sequence[Picture]) -> Decoded:
        stream = getattr(self._streams, "own", None)
        if stream is None:
            stream = self._streams.own = torch.cuda.Stream(self.runtime.device)
        return pictures.decoded_on(stream, group, self.runtime)

    def start(self, group: Sequence[Picture], decoded: Sequence[Decoded]) -> Ticket:
        """Queues a batch; where all boxes are asked for, it waits for their number."""
        clock = Clock()
        with torch.inference_mode(), torch.cuda.stream(self.runtime.stream):
            pixels: list[Tensor] = []
            for part, there in decoded:
                self.runtime.stream.wait_event(there)
                pixels += part
            size, places = self.detector.model(group, pixels, clock)
            with clock.measure("postprocess"):
                if group[0].every:
                    rows, buffer = self.detector.every(size, len(group)).cpu(), None
                else:
                    found = self.detector.candidates(size)[: len(group)]
                    buffer = self._free.get()  # the last that can fail comes before it
                    rows = buffer[: len(group), : found.shape[1]]
                    rows.copy_(found, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
        return Ticket(rows, buffer, places, clock, done)

    def finish(
        self, group: Sequence[Picture], ticket: Ticket
    ) -> tuple[list[Rows], list[Letterbox], dict[str, float]]:
        """Of the candidates, those above the threshold: they come first."""
        try:
            ticket.done.synchronize()
            rows = ticket.rows.numpy()
            if ticket.buffer is None:
                edges = np.searchsorted(rows[:, 0], np.arange(len(group) + 1))
                found = [rows[edges[i] : edges[i + 1]] for i in range(len(group))]
            else:
                above = (rows[:, :, 0] > self.detector.decoder.logit).sum(1)
                found = [row[:count].copy() for row, count in zip(rows, above, strict=True)]
            return found, ticket.places, ticket.clock.read()
        finally:
            if ticket.buffer is not None:
                self._free.put(ticket.buffer)
