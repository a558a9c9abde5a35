"""The GPU server's work: what ``handlers.gpu.detector`` does, for pictures of several workers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from handlers.gpu.detector import Decoded, Detector, Started
from handlers.gpu.server.jobs import Picture, Rows
from handlers.gpu.server.queues import IN_FLIGHT
from handlers.gpu.server.wire import slot_bytes
from handlers.letterbox import Letterbox
from handlers.passport import Passport
from handlers.runtimes.device import DeviceRuntime


class GpuWork:
    """Implements ``jobs.Work``.

    Args:
        runtime: activated here.
    """

    def __init__(self, runtime: DeviceRuntime, passport: Passport):
        self.runtime = runtime
        self.detector = Detector(runtime, passport, IN_FLIGHT)
        self.chunk = self.detector.chunk
        self.slot = slot_bytes(passport.settings)
        self.decode = self.detector.decode

    def begin(self) -> None:
        """Each thread has its own current GPU, the first one until told otherwise."""
        torch.cuda.set_device(self.runtime.device)

    def start(self, group: Sequence[Picture], decoded: Sequence[Decoded]) -> Started:
        """Queues a batch; where all boxes are asked for, it waits for their number."""
        with self.detector.queue():
            return self.detector.start(group, decoded, group[0].every)

    def finish(
        self, group: Sequence[Picture], started: Started
    ) -> tuple[list[Rows], list[Letterbox], dict[str, float]]:
        """Of the candidates, those above the threshold: they come first."""
        try:
            stages = started.clock.read()
            rows = started.rows.numpy()
            if started.buffer is None:
                edges = np.searchsorted(rows[:, 0], np.arange(len(group) + 1))
                found = [rows[edges[i] : edges[i + 1]] for i in range(len(group))]
            else:
                above = (rows[:, :, 0] > self.detector.decoder.least).sum(1)
                found = [row[:count].copy() for row, count in zip(rows, above, strict=True)]
            return found, started.letterboxes, stages
        finally:
            self.detector.free(started)
