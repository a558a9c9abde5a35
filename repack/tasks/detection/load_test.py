"""What the load tester does with a detector: pictures in, boxes out, drawn side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repack.tasks.load_test import PicturesLoadTest

SAME_BOX = 0.5
"""Intersection over union from which two boxes of a class are the same detection."""


@dataclass(frozen=True)
class Agreement:
    """How two modes' detections in one picture compare.

    Attributes:
        matched: detections of one class and place that both have.
        alone: detections that only one of them has.
        pixels: largest difference of a matched box's coordinates.
        confidence: largest difference of a matched confidence.
    """

    matched: int
    alone: int
    pixels: float
    confidence: float


class DetectionLoadTest(PicturesLoadTest):
    """A detector's hooks."""

    holds = "detections"
    usual_one = True

    def drawing(self, picture: Any, answer: Mapping[str, Any]) -> Any:
        from handlers import drawing

        return drawing.draw(picture, answer["detections"])

    def title(self, answer: Mapping[str, Any]) -> str:
        count = len(answer["detections"])
        return f"{count} detection{'' if count == 1 else 's'}"

    def agreement(
        self, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
    ) -> str:
        found = [
            compare(a["detections"], b["detections"]) for a, b in zip(ours, theirs, strict=True)
        ]
        return (
            f"{sum(f.matched for f in found)} detections "
            f"matched, {sum(f.alone for f in found)} without a partner, boxes within "
            f"{max(f.pixels for f in found):.2f} px, confidences within "
            f"{max(f.confidence for f in found):.4f}"
        )


HOOKS = DetectionLoadTest()


def compare(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> Agreement:
    """Match the detections of two answers, the surest first, each to the best of its class."""
    left = list(theirs)
    matched, pixels, confidence = 0, 0.0, 0.0
    for one in sorted(ours, key=lambda d: -float(d["confidence"])):
        same = [d for d in left if d["class"] == one["class"]]
        best = max(same, key=lambda d: overlap(one["box"], d["box"]), default=None)
        if best is None or overlap(one["box"], best["box"]) < SAME_BOX:
            continue
        left.remove(best)
        matched += 1
        pixels = max(pixels, *(abs(a - b) for a, b in zip(one["box"], best["box"], strict=True)))
        confidence = max(confidence, abs(one["confidence"] - best["confidence"]))
    return Agreement(matched, len(ours) + len(theirs) - 2 * matched, pixels, confidence)


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two xyxy boxes, 0 to 1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (areas - shared)
