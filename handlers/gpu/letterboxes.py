"""Letterboxes of pictures that keep coming in one size, each replayed as a CUDA graph.

Nine small calls make a letterbox; queued one by one they take a lone picture 0.3 ms on an H200,
most of it between them. A camera's pictures are all of one size: their letterbox is recorded once.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from handlers.gpu import pictures
from handlers.letterbox import Letterbox

logger = logging.getLogger(__name__)

FEW = 4
"""Rows of the model's input up to which it is done: of 16 pictures the GPU's own work is what takes
the time, and one process answered 6,194 pictures a second without such graphs, 5,259 with them
(an H200, qpstest mode 2)."""

OFTEN = 8
"""Batches of one size after which its letterbox is recorded: that takes some milliseconds."""

KEPT = 6
"""Recorded letterboxes; each holds its pictures' pixels, 11 MB for 4 of 1280x720."""

REMEMBERED = 1000
"""Sizes that are counted, before the count begins anew."""

Key = tuple[int, tuple[int, ...], tuple[int, int]]
"""Rows of the model's input, shape of the decoded pictures, their own size."""

Capture = Callable[[Callable[[], Any]], Callable[[], Any]]


class Recorded(NamedTuple):
    """One size's letterbox: what it reads and fills, both kept for the graph, and the call."""

    source: Tensor
    target: Tensor
    replay: Callable[[], Letterbox]


class Letterboxes:
    """Fills a model's input as ``pictures.letterbox`` does.

    Args:
        capture: makes a graph of calls, as ``DeviceRuntime.captured``.
        mode: one of ``handlers.images.MODES``.
    """

    def __init__(self, capture: Capture, mode: str = "letterbox"):
        self._mode = mode
        self._capture: Capture | None = capture
        self._seen: Counter[Key] = Counter()
        self._recorded: OrderedDict[Key, Recorded] = OrderedDict()

    def __call__(
        self, given: Sequence[Tensor], target: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> list[Letterbox]:
        """Queues the letterbox of these pictures into the first rows.

        Args:
            target: the model's whole input; what it holds beyond these pictures is anything.
        """
        count = len(given)
        same = len(set(sizes)) == 1 and len({tuple(p.shape) for p in given}) == 1
        if same and len(target) <= FEW:
            found = self._of(target, tuple(given[0].shape), sizes[0])
            if found is not None:
                torch.stack(list(given), out=found.source[:count])
                return [found.replay()] * count
        return pictures.letterbox(given, target[:count], sizes, self._mode)

    def _of(self, target: Tensor, shape: tuple[int, ...], size: tuple[int, int]) -> Recorded | None:
        """The recorded letterbox of a size that came often."""
        if self._capture is None:
            return None
        key = (target.data_ptr(), shape, size)
        if key in self._recorded:
            self._recorded.move_to_end(key)
            return self._recorded[key]
        if len(self._seen) >= REMEMBERED:
            self._seen.clear()
        self._seen[key] += 1
        if self._seen[key] < OFTEN:
            return None
        source = torch.zeros((len(target), *shape), dtype=torch.uint8, device=target.device)
        try:
            replay = self._capture(lambda: pictures.fit(source, target, size, self._mode))
        except RuntimeError as e:
            logger.warning("no CUDA graph for letterboxes: %s", str(e).splitlines()[0])
            self._capture = None
            return None
        while len(self._recorded) >= KEPT:
            self._recorded.popitem(last=False)
        self._recorded[key] = Recorded(source, target, replay)
        return self._recorded[key]
