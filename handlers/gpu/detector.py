"""Decode, letterbox, model and boxes of chunks of pictures on the GPU."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import NamedTuple

import torch
from torch import Tensor

from handlers import heads
from handlers.boxes import CANDIDATES, COLUMNS
from handlers.gpu import pictures
from handlers.gpu.boxes import Decoder
from handlers.gpu.clock import Clock
from handlers.gpu.letterboxes import Letterboxes
from handlers.letterbox import Letterbox
from handlers.passport import Passport
from handlers.runtimes.device import DeviceRuntime, Size

logger = logging.getLogger(__name__)

CHUNK = 16
"""Pictures decoded in one call and run in one batch: on an H200 one process decoded and ran 6,444
of 1280x720 a second 16 at a time, 5,976 at 14 and 3,599 at 8; a server gave 5,573 and, 32 at a
time, 4,940 (benchmarks/results/gpu.md)."""


Decoded = tuple[list[Tensor], torch.cuda.Event | None]
"""Pictures on the GPU, and the event after which they are there; None on the runtime's stream."""


class Started(NamedTuple):
    """A chunk on the GPU; free it once its rows are read.

    Attributes:
        rows: in the host's memory once ``clock`` is read; candidates ``[n, K, 7]`` (as
            ``Decoder.candidates``), or all boxes ``[M, 7]`` (as ``Decoder.find``).
        buffer: the pinned memory that candidates lie in, to be used again.
        letterboxes: where each picture lies in the model's input.
    """

    rows: Tensor
    buffer: Tensor | None
    letterboxes: list[Letterbox]
    clock: Clock


class Detector:
    """Decode -> letterbox -> model -> boxes, queued on the GPU chunk by chunk.

    The one driver of all that is done with pictures on a GPU, in a worker's own process
    (``handlers.gpu.pipeline``) and in one for several workers (``handlers.gpu.server``): these
    differ in which thread calls what, and in who waits.

    Args:
        buffers: chunks that are on the GPU at once, where that is known.

    Attributes:
        decoder: finds boxes in the maps.
        chunk: most pictures at once.
    """

    def __init__(self, runtime: DeviceRuntime, passport: Passport, buffers: int = 0):
        self.runtime = runtime
        self.name = passport.inputs[0].name
        self.shape = tuple(int(n) for n in passport.inputs[0].shape[1:])
        self.decoder = Decoder(heads.required(passport.settings), passport.settings, runtime.device)
        self.chunk = min(CHUNK, runtime.largest)
        mode = passport.settings.get("resize_mode", "letterbox")
        self._letterboxes = Letterboxes(runtime.captured, mode)
        self._streams = threading.local()
        self._buffers: SimpleQueue[Tensor] = SimpleQueue()
        for _ in range(buffers):
            self._buffers.put(self._pinned())
        with self.queue():
            for batch in runtime.batches:
                self._candidates(self._size(batch))
            runtime.stream.synchronize()

    def decode(self, items: Sequence[pictures.Source]) -> Decoded:
        """Decodes on the calling thread's own stream, beside what the runtime's stream does.

        Raises:
            RuntimeError: nvJPEG does not take one of them.
        """
        stream = getattr(self._streams, "own", None)
        if stream is None:
            stream = self._streams.own = torch.cuda.Stream(self.runtime.device)
        with torch.inference_mode(), torch.cuda.stream(stream):
            pixels = pictures.decode(items, self.runtime.device)
            done = torch.cuda.Event()
            done.record()
        for picture in pixels:
            picture.record_stream(self.runtime.stream)
        return pixels, done

    @contextmanager
    def queue(self) -> Iterator[None]:
        """What is called inside goes onto the runtime's stream."""
        with torch.inference_mode(), torch.cuda.stream(self.runtime.stream):
            yield

    def decode_here(self, items: Sequence[pictures.Source]) -> Decoded:
        """Decodes on the runtime's own stream; inside of ``queue``."""
        return pictures.decode(items, self.runtime.device), None

    def start(
        self, items: Sequence[pictures.Source], decoded: Sequence[Decoded], every: bool = False
    ) -> Started:
        """Queues a chunk, inside of ``queue``; waits for nothing, but where all boxes are asked
        for.

        Args:
            decoded: the items' pictures, in their order.
            every: all boxes, suppressed, instead of the candidates.
        """
        runtime, rows, clock = self.runtime, len(items), Clock(self.runtime.device)
        pixels: list[Tensor] = []
        for part, there in decoded:
            if there is not None:
                runtime.stream.wait_event(there)
            pixels += part
        size = self._size(runtime.bucket(rows))
        with clock.measure("preprocess"):
            sizes = [(item.height, item.width) for item in items]
            letterboxes = self._letterboxes(pixels, size.inputs[self.name], sizes)
        with clock.measure("infer"):
            runtime.run(size)
        with clock.measure("postprocess"):
            if every:
                found = self.decoder.find(self._maps(size, rows)).cpu()
                return Started(found, None, letterboxes, clock)
            candidates = self._candidates(size)[:rows]
            buffer = self._buffer()
            copied = buffer[:rows, : candidates.shape[1]]
            copied.copy_(candidates, non_blocking=True)
        return Started(copied, buffer, letterboxes, clock)

    def free(self, started: Started) -> None:
        """Gives a chunk's pinned memory back."""
        if started.buffer is not None:
            self._buffers.put(started.buffer)

    def _buffer(self) -> Tensor:
        try:
            return self._buffers.get_nowait()
        except Empty:
            return self._pinned()

    def _pinned(self) -> Tensor:
        return torch.empty((self.chunk, CANDIDATES, COLUMNS), pin_memory=True)

    def _candidates(self, size: Size) -> Tensor:
        """A size's candidates, queued; by a graph of their own where the model has one."""
        if size.graph is None:
            return self.decoder.candidates(self._maps(size, size.batch))
        if size.after is None:
            size.after = self._captured(size)
        rows: Tensor = size.after()
        return rows

    def _size(self, batch: int) -> Size:
        return self.runtime.size({self.name: (batch, *self.shape)})

    def _maps(self, size: Size, rows: int) -> list[Tensor]:
        maps = self.runtime.view(size.outputs, rows)
        return [maps[name] for name in self.runtime.options.outputs]

    def _captured(self, size: Size) -> Callable[[], Tensor]:
        """The candidates of a size's own maps: a graph, or the calls where none can be had."""
        maps = self._maps(size, size.batch)
        try:
            return self.runtime.captured(lambda: self.decoder.candidates(maps))
        except RuntimeError as e:
            logger.warning("no CUDA graph for the boxes: %s", str(e).splitlines()[0])
            return lambda: self.decoder.candidates(maps)
