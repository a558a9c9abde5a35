"""A batch of pictures through the GPU, the next ones decoded while the model runs on these."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from handlers.gpu import pictures
from handlers.gpu.boxes import Decoder
from handlers.images import Letterbox
from handlers.runtimes.device import DeviceRuntime, Size
from handlers.stages import Stages

if TYPE_CHECKING:
    from handlers.boxes import Boxes
    from handlers.detection import Item
    from handlers.passport import Passport

logger = logging.getLogger(__name__)

CHUNK = 16
"""Pictures decoded in one call: nvJPEG decoded 8,720 a second 16 at a time on an H200, 7,288 at 32
(1280x720, 263 KB each; benchmarks/README.md)."""


class Pipeline:
    """Decode (its own thread and stream) -> letterbox -> model -> boxes, chunk by chunk.

    The host waits for the GPU once a batch: when the candidates of all chunks are copied.
    """

    def __init__(self, runtime: DeviceRuntime, passport: Passport, stages: Stages):
        self.runtime = runtime
        self.stages = stages
        self.name = passport.inputs[0].name
        self.shape = tuple(int(n) for n in passport.inputs[0].shape[1:])
        options = runtime.artefact.options
        self.outputs: list[str] = options["outputs"]
        self.decoder = Decoder(
            options["anchors"], options["strides"], passport.settings, runtime.device
        )
        self.chunk = min(CHUNK, runtime.largest)
        self._decoding = ThreadPoolExecutor(1, "nvjpeg")
        self._decode_stream = torch.cuda.Stream(runtime.device)
        self._clock = Clock(stages)
        self._host: list[Tensor] = []
        with torch.inference_mode(), torch.cuda.stream(runtime.stream):
            for batch in runtime.batches:
                self._candidates(self._size(batch))
            runtime.stream.synchronize()

    def boxes(self, items: Sequence[Item]) -> list[tuple[Boxes, Letterbox]]:
        """Per item its boxes in pixels of the model's input, and where its picture lies there."""
        chunks = [items[i : i + self.chunk] for i in range(0, len(items), self.chunk)]
        places: list[Letterbox] = []
        copied: list[Tensor] = []
        with torch.inference_mode(), torch.cuda.stream(self.runtime.stream):
            for chunk, pixels in self._decoded(chunks):
                size, lie = self._model(chunk, pixels)
                with self._clock.measure("postprocess"):
                    copied.append(self._copied(len(copied), self._candidates(size)[: len(chunk)]))
                del size  # one set of buffers may have to make room for the next
                places += lie
            self._clock.read()
            with self.stages.measure("postprocess"):
                found = self.decoder.chosen(torch.cat(copied))
            if found is None:
                found = self._crowded(chunks)
        host = found.numpy()
        edges = np.searchsorted(host[:, 0], np.arange(len(items) + 1))
        return [
            (np.ascontiguousarray(host[edges[i] : edges[i + 1], 1:]), place)
            for i, place in enumerate(places)
        ]

    def _crowded(self, chunks: Sequence[Sequence[Item]]) -> Tensor:
        """The same once more, where a picture has more boxes than candidates."""
        found, before = [], 0
        for chunk in chunks:
            size, _ = self._model(chunk, pictures.decode(chunk, self.runtime.device))
            with self._clock.measure("postprocess"):
                rows = self.decoder.find(self._maps(size, len(chunk)))
            del size
            rows[:, 0] += before
            before += len(chunk)
            found.append(rows.cpu())
        self._clock.read()
        return torch.cat(found)

    def _size(self, batch: int) -> Size:
        return self.runtime.size({self.name: (batch, *self.shape)})

    def _maps(self, size: Size, rows: int) -> list[Tensor]:
        maps = self.runtime.view(size.outputs, rows)
        return [maps[name] for name in self.outputs]

    def _candidates(self, size: Size) -> Tensor:
        """A size's candidates, queued; by a graph of their own where the model has one."""
        if size.graph is None:
            return self.decoder.candidates(self._maps(size, size.batch))
        if size.after is None:
            size.after = self._captured(size)
        rows: Tensor = size.after()
        return rows

    def _captured(self, size: Size) -> Callable[[], Tensor]:
        """The candidates of a size's own maps: a graph, or the calls where none can be had."""
        maps = self._maps(size, size.batch)
        try:
            return self.runtime.captured(lambda: self.decoder.candidates(maps))
        except RuntimeError as e:
            logger.warning("no CUDA graph for the boxes: %s", str(e).splitlines()[0])
            return lambda: self.decoder.candidates(maps)

    def _copied(self, number: int, rows: Tensor) -> Tensor:
        """Rows on their way to a chunk's own place in the host's memory, which is pinned."""
        if number == len(self._host):
            shape = (self.chunk, *rows.shape[1:])
            self._host.append(torch.empty(shape, dtype=rows.dtype, pin_memory=True))
        target = self._host[number][: len(rows)]
        return target.copy_(rows, non_blocking=True)

    def _decoded(
        self, chunks: Sequence[Sequence[Item]]
    ) -> Iterator[tuple[Sequence[Item], list[Tensor]]]:
        """The chunks with their pictures; while one is worked on, the next is decoded."""
        if len(chunks) == 1:
            with self.stages.measure("decode"):
                pixels = pictures.decode(chunks[0], self.runtime.device)
            yield chunks[0], pixels
            return
        waiting = self._decoding.submit(self._decode, chunks[0])
        for i, chunk in enumerate(chunks):
            pixels, done = waiting.result()
            if i + 1 < len(chunks):
                waiting = self._decoding.submit(self._decode, chunks[i + 1])
            self.runtime.stream.wait_event(done)
            yield chunk, pixels

    def _decode(self, chunk: Sequence[Item]) -> tuple[list[Tensor], torch.cuda.Event]:
        with (
            torch.inference_mode(),
            torch.cuda.stream(self._decode_stream),
            self.stages.measure("decode"),
        ):
            pixels = pictures.decode(chunk, self.runtime.device)
            done = torch.cuda.Event()
            done.record()
        for picture in pixels:
            picture.record_stream(self.runtime.stream)
        return pixels, done

    def _model(self, chunk: Sequence[Item], pixels: list[Tensor]) -> tuple[Size, list[Letterbox]]:
        """Queues letterbox and model; returns the size that holds the maps, and the places."""
        runtime, rows = self.runtime, len(chunk)
        size = self._size(runtime.bucket(rows))
        with self._clock.measure("preprocess"):
            sizes = [(item.height, item.width) for item in chunk]
            places = pictures.letterbox(pixels, size.inputs[self.name][:rows], sizes)
        with self._clock.measure("infer"):
            runtime.run(size)
        return size, places


class Clock:
    """Milliseconds of queued work, by the GPU's own events, read when the batch is done."""

    def __init__(self, stages: Stages):
        self._stages = stages
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

    def read(self) -> None:
        """Adds what was measured to the stages; waits for the last of it."""
        marks, self._marks = self._marks, []
        for stage, begin, end in marks:
            end.synchronize()
            self._stages.add(stage, cast(Callable[[Any], float], begin.elapsed_time)(end))
