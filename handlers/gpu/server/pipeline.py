"""A batch of pictures through the GPU server, in place of ``handlers.gpu.pipeline``."""

from __future__ import annotations

import time
from collections.abc import Sequence

from handlers import boxes, heads
from handlers.gpu.server.client import Client, Found
from handlers.images import Item
from handlers.letterbox import Letterbox
from handlers.passport import Passport
from handlers.stages import Stages


class SharedPipeline:
    """Asks the server for candidates and suppresses them here; needs no PyTorch."""

    def __init__(self, client: Client, passport: Passport, stages: Stages):
        self.client = client
        self.stages = stages
        self.confidence = float(passport.settings["confidence"])
        self.iou = float(passport.settings["iou"])
        self.ranked = heads.required(passport.settings).ranked
        self.limit = int(passport.settings["max_detections"])

    def boxes(self, items: Sequence[Item]) -> list[tuple[boxes.Boxes, Letterbox]]:
        """Per item its boxes in pixels of the model's input, and where its picture lies there.

        Raises:
            Unprocessable: an item asks for an overlap of its own, and there are too many boxes.
            RuntimeError: nvJPEG does not take a picture, the GPU has no memory left, or the
                server ended.
        """
        found = self._asked(items, every=False)
        crowded = any(len(rows) >= boxes.CANDIDATES for rows in found.rows)
        asked = boxes.overlaps_asked([item.limits for item in items], self.iou, crowded)
        if crowded:  # there may be boxes beyond the candidates
            found = self._asked(items, every=True)
        with self.stages.measure("postprocess"):
            rest = [rows[:, 1:] for rows in found.rows]
            if not crowded:
                passed = [rows[rows[:, 4] > self.confidence] for rows in rest]
                rest = [
                    boxes.suppressed(rows, None if self.ranked else iou, self.limit)
                    for rows, iou in zip(passed, asked, strict=True)
                ]
        return list(zip(rest, found.letterboxes, strict=True))

    def _asked(self, items: Sequence[Item], every: bool) -> Found:
        begin = time.perf_counter()
        found = self.client.ask(items, every)
        waited = (time.perf_counter() - begin) * 1e3
        for stage, ms in found.stages.items():
            self.stages.add(stage, ms)
        self.stages.add("gpu_server", max(0.0, waited - sum(found.stages.values())))
        return found
