"""A batch of pictures through the GPU, the next ones decoded while the model runs on these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from handlers.boxes import Boxes, overlaps_asked, suppressed
from handlers.gpu.detector import Decoded, Detector, Started
from handlers.images import Item
from handlers.letterbox import Letterbox
from handlers.passport import Passport
from handlers.runtimes.device import DeviceRuntime
from handlers.stages import Stages


class Pipeline:
    """Chunk by chunk; a thread of its own decodes the next one.

    The host waits for the GPU once a batch: when the candidates of all chunks are copied.
    """

    def __init__(self, runtime: DeviceRuntime, passport: Passport, stages: Stages):
        self.stages = stages
        self.detector = Detector(runtime, passport)
        self._decoding = ThreadPoolExecutor(1, "nvjpeg", torch.cuda.set_device, (runtime.device,))

    def boxes(self, items: Sequence[Item]) -> list[tuple[Boxes, Letterbox]]:
        """Per item its boxes in pixels of the model's input, and where its picture lies there.

        Where an item asks for an overlap of its own, its candidates are suppressed on the CPU.

        Raises:
            Unprocessable: it does, and there are too many.
        """
        step, decoder = self.detector.chunk, self.detector.decoder
        chunks = [items[i : i + step] for i in range(0, len(items), step)]
        started: list[Started] = []
        with self.detector.queue():
            try:
                for chunk, decoded in self._decoded(chunks):
                    started.append(self.detector.start(chunk, [decoded]))
                self._wait(started)
                with self.stages.measure("postprocess"):
                    candidates = torch.cat([s.rows for s in started])
                    found = decoder.chosen(candidates)
            finally:
                for one in started:
                    self.detector.free(one)
            asked = overlaps_asked([i.limits for i in items], decoder.iou, found is None)
            if found is None:
                found = self._crowded(chunks)
        rows = by_picture(found, len(items))
        for i, iou in enumerate(asked):
            if iou != decoder.iou:
                passed = decoder.passed(candidates[i]).numpy()
                rows[i] = suppressed(passed, iou, decoder.limit)
        letterboxes = [place for one in started for place in one.letterboxes]
        return list(zip(rows, letterboxes, strict=True))

    def _crowded(self, chunks: Sequence[Sequence[Item]]) -> Tensor:
        """All boxes, where a picture has more of them than candidates."""
        started, before = [], 0
        for chunk in chunks:
            one = self.detector.start(chunk, [self.detector.decode_here(chunk)], every=True)
            one.rows[:, 0] += before
            before += len(chunk)
            started.append(one)
        self._wait(started)
        return torch.cat([one.rows for one in started])

    def _wait(self, started: Sequence[Started]) -> None:
        for one in started:
            for stage, ms in one.clock.read().items():
                self.stages.add(stage, ms)

    def _decoded(
        self, chunks: Sequence[Sequence[Item]]
    ) -> Iterator[tuple[Sequence[Item], Decoded]]:
        """The chunks with their pictures; while one is worked on, the next is decoded."""
        if len(chunks) == 1:
            with self.stages.measure("decode"):
                decoded = self.detector.decode_here(chunks[0])
            yield chunks[0], decoded
            return
        waiting = self._decoding.submit(self._decode, chunks[0])
        for i, chunk in enumerate(chunks):
            decoded = waiting.result()
            if i + 1 < len(chunks):
                waiting = self._decoding.submit(self._decode, chunks[i + 1])
            yield chunk, decoded

    def _decode(self, chunk: Sequence[Item]) -> Decoded:
        with self.stages.measure("decode"):
            return self.detector.decode(chunk)


def by_picture(found: Tensor, count: int) -> list[Boxes]:
    """Rows ``[M, 7]`` in the host's memory, picture first and in order -> boxes of each picture."""
    host = found.numpy()
    edges = np.searchsorted(host[:, 0], np.arange(count + 1))
    return [np.ascontiguousarray(host[edges[i] : edges[i + 1], 1:]) for i in range(count)]
