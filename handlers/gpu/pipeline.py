"""A batch of pictures through the GPU, the next ones decoded while the model runs on these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from handlers.gpu import pictures
from handlers.gpu.detector import Clock, Detector
from handlers.images import Letterbox
from handlers.runtimes.device import DeviceRuntime
from handlers.stages import Stages

if TYPE_CHECKING:
    from handlers.boxes import Boxes
    from handlers.detection import Item
    from handlers.passport import Passport


class Pipeline:
    """Decode (its own thread and stream) -> letterbox -> model -> boxes, chunk by chunk.

    The host waits for the GPU once a batch: when the candidates of all chunks are copied.
    """

    def __init__(self, runtime: DeviceRuntime, passport: Passport, stages: Stages):
        self.runtime = runtime
        self.stages = stages
        self.detector = Detector(runtime, passport)
        self._decoding = ThreadPoolExecutor(1, "nvjpeg", torch.cuda.set_device, (runtime.device,))
        self._decode_stream = torch.cuda.Stream(runtime.device)
        self._clock = Clock()
        self._host: list[Tensor] = []

    def boxes(self, items: Sequence[Item]) -> list[tuple[Boxes, Letterbox]]:
        """Per item its boxes in pixels of the model's input, and where its picture lies there."""
        step = self.detector.chunk
        chunks = [items[i : i + step] for i in range(0, len(items), step)]
        places: list[Letterbox] = []
        copied: list[Tensor] = []
        with torch.inference_mode(), torch.cuda.stream(self.runtime.stream):
            for chunk, pixels in self._decoded(chunks):
                size, lie = self.detector.model(chunk, pixels, self._clock)
                with self._clock.measure("postprocess"):
                    rows = self.detector.candidates(size)[: len(chunk)]
                    copied.append(self._copied(len(copied), rows))
                del size  # one set of buffers may have to make room for the next
                places += lie
            self._read_clock()
            with self.stages.measure("postprocess"):
                found = self.detector.decoder.chosen(torch.cat(copied))
            if found is None:
                found = self._crowded(chunks)
        return list(zip(by_picture(found, len(items)), places, strict=True))

    def _crowded(self, chunks: Sequence[Sequence[Item]]) -> Tensor:
        """The same once more, where a picture has more boxes than candidates."""
        found, before = [], 0
        for chunk in chunks:
            pixels = pictures.decode(chunk, self.runtime.device)
            size, _ = self.detector.model(chunk, pixels, self._clock)
            with self._clock.measure("postprocess"):
                rows = self.detector.every(size, len(chunk))
            del size
            rows[:, 0] += before
            before += len(chunk)
            found.append(rows.cpu())
        self._read_clock()
        return torch.cat(found)

    def _read_clock(self) -> None:
        for stage, ms in self._clock.read().items():
            self.stages.add(stage, ms)

    def _copied(self, number: int, rows: Tensor) -> Tensor:
        """Rows on their way to a chunk's own place in the host's memory, which is pinned."""
        if number == len(self._host):
            shape = (self.detector.chunk, *rows.shape[1:])
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
        with self.stages.measure("decode"):
            return pictures.decoded_on(self._decode_stream, chunk, self.runtime)


def by_picture(found: Tensor, count: int) -> list[Boxes]:
    """Rows ``[M, 7]`` in the host's memory, picture first and in order -> boxes of each picture."""
    host = found.numpy()
    edges = np.searchsorted(host[:, 0], np.arange(count + 1))
    return [np.ascontiguousarray(host[edges[i] : edges[i + 1], 1:]) for i in range(count)]
