"""Letterbox, model and candidates of one chunk of pictures, queued on the GPU in one go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from handlers import head
from handlers.gpu import pictures
from handlers.gpu.boxes import Decoder
from handlers.gpu.letterboxes import Letterboxes
from handlers.images import Letterbox
from handlers.runtimes.device import DeviceRuntime, Size

if TYPE_CHECKING:
    from handlers.passport import Passport

logger = logging.getLogger(__name__)

CHUNK = 16
"""Pictures decoded in one call and run in one batch: on an H200 one process decoded and ran 6,444
of 1280x720 a second 16 at a time, 5,976 at 14 and 3,599 at 8; a server gave 5,573 and, 32 at a
time, 4,940 (benchmarks/results/gpu.md)."""


class Detector:
    """Queues work on the runtime's stream and never waits for it.

    Attributes:
        decoder: finds boxes in the maps.
        chunk: most pictures at once.
    """

    def __init__(self, runtime: DeviceRuntime, passport: Passport):
        self.runtime = runtime
        self.name = passport.inputs[0].name
        self.shape = tuple(int(n) for n in passport.inputs[0].shape[1:])
        self.outputs = runtime.options.outputs
        self.decoder = Decoder(head.required(passport.settings), passport.settings, runtime.device)
        self.chunk = min(CHUNK, runtime.largest)
        self._letterboxes = Letterboxes(runtime.captured)
        with torch.inference_mode(), torch.cuda.stream(runtime.stream):
            for batch in runtime.batches:
                self.candidates(self._size(batch))
            runtime.stream.synchronize()

    def model(
        self, chunk: Sequence[pictures.Source], pixels: list[Tensor], clock: Clock
    ) -> tuple[Size, list[Letterbox]]:
        """Queues letterbox and model; returns the size that holds the maps, and the places."""
        runtime, rows = self.runtime, len(chunk)
        size = self._size(runtime.bucket(rows))
        with clock.measure("preprocess"):
            sizes = [(item.height, item.width) for item in chunk]
            places = self._letterboxes(pixels, size.inputs[self.name], sizes)
        with clock.measure("infer"):
            runtime.run(size)
        return size, places

    def candidates(self, size: Size) -> Tensor:
        """A size's candidates, queued; by a graph of their own where the model has one."""
        if size.graph is None:
            return self.decoder.candidates(self._maps(size, size.batch))
        if size.after is None:
            size.after = self._captured(size)
        rows: Tensor = size.after()
        return rows

    def every(self, size: Size, rows: int) -> Tensor:
        """All boxes of a size's first rows, suppressed: what ``Decoder.find`` gives."""
        return self.decoder.find(self._maps(size, rows))

    def _size(self, batch: int) -> Size:
        return self.runtime.size({self.name: (batch, *self.shape)})

    def _maps(self, size: Size, rows: int) -> list[Tensor]:
        maps = self.runtime.view(size.outputs, rows)
        return [maps[name] for name in self.outputs]

    def _captured(self, size: Size) -> Callable[[], Tensor]:
        """The candidates of a size's own maps: a graph, or the calls where none can be had."""
        maps = self._maps(size, size.batch)
        try:
            return self.runtime.captured(lambda: self.decoder.candidates(maps))
        except RuntimeError as e:
            logger.warning("no CUDA graph for the boxes: %s", str(e).splitlines()[0])
            return lambda: self.decoder.candidates(maps)


class Clock:
    """Milliseconds of queued work, by the GPU's own events, read when the work is done."""

    def __init__(self) -> None:
        self._marks: list[tuple[str, Any, Any]] = []

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        try:
            yield
        finally:
            end.record()
            self._marks.append((stage, begin, end))

    def read(self) -> dict[str, float]:
        """Milliseconds of each stage since the last reading; waits for the last of them."""
        marks, self._marks = self._marks, []
        found: dict[str, float] = {}
        for stage, begin, end in marks:
            end.synchronize()
            ms = cast(Callable[[Any], float], begin.elapsed_time)(end)
            found[stage] = found.get(stage, 0.0) + ms
        return found
