"""DBNet, the text detector of PP-OCR: a map of how likely each pixel is text."""

from __future__ import annotations

from handlers.heads.dbnet import DBNet as Head
from handlers.rectangles import VALUES
from repack.options import IMAGENET_MEAN, IMAGENET_STD
from repack.tasks.detection.layouts.base import Layout, Probe, Rows
from repack.tasks.detection.layouts.end_to_end import AsTheyAre


class DBNet(Layout):
    """Probabilities 0..1 of the input's pixels. PaddleOCR takes ImageNet's mean and standard
    deviation in their own order, of blue, green and red."""

    name = "dbnet"
    shown = "[N, 1, height, width]"
    task = "oriented"
    names = ("text",)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    bgr = True
    confidence = 0.6
    stated = False

    def fit(self, probe: Probe) -> Rows | None:
        values = list(probe.outputs.values())
        if len(values) != 1 or values[0].shape[1:] != (1, *probe.sides):
            return None
        if values[0].min() < 0 or values[0].max() > 1:
            return None
        return AsTheyAre(Head(classes=1, extras=VALUES))
