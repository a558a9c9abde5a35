"""How far a long request has come, in the log and on the metrics page, while it is worked on."""

from __future__ import annotations

import logging
import time

from handlers.context import Context
from handlers.stages import Dimension

logger = logging.getLogger(__name__)

METRIC_EVERY_S = 1.0
LOG_EVERY_S = 10.0


class Progress:
    """Counts the windows of one volume.

    Args:
        model: its name in the log.
        total: windows of the volume.
        context: where ``handler_windows`` is counted; None only logs.
    """

    def __init__(self, model: str, total: int, context: Context | None):
        self._model = model
        self._total = total
        self._context = context
        self._begin = self._logged = self._reported = time.monotonic()
        self._counted = 0

    def __call__(self, done: int) -> None:
        """Called with the number of windows done; at the last one all is reported."""
        now = time.monotonic()
        if now - self._reported >= METRIC_EVERY_S or done == self._total:
            self._reported = now
            self._count(done - self._counted)
            self._counted = done
        if now - self._logged >= LOG_EVERY_S:
            self._logged = now
            passed = now - self._begin
            left = passed / done * (self._total - done)
            logger.info(
                "PROGRESS %s: %d of %d windows after %.0f s, about %.0f s left",
                *(self._model, done, self._total, passed, left),
            )

    def _count(self, windows: int) -> None:
        if self._context is None or not windows:
            return
        name = self._context.model_name
        dimensions = [Dimension("ModelName", name), Dimension("Level", "Model")]
        self._context.metrics.add_metric("handler_windows", windows, "count", dimensions=dimensions)
