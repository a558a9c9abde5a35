"""The load tester on a detector: which detections of two answers are the same."""

from __future__ import annotations

from typing import Any

import pytest

from repack.tasks.detection.load_test import compare, overlap


def test_overlap_by_hand() -> None:
    assert overlap([0, 0, 10, 10], [0, 0, 10, 10]) == 1.0
    assert overlap([0, 0, 10, 10], [5, 0, 15, 10]) == pytest.approx(1 / 3)
    assert overlap([0, 0, 10, 10], [10, 0, 20, 10]) == 0.0


def test_detections_are_matched_by_class_and_place() -> None:
    def seen(name: str, x: float, confidence: float) -> dict[str, Any]:
        return {"class": name, "confidence": confidence, "box": [x, 0.0, x + 10, 10.0]}

    ours = [seen("a", 0, 0.9), seen("a", 50, 0.8), seen("b", 0, 0.7)]
    theirs = [seen("b", 0.25, 0.7), seen("a", 50, 0.81), seen("c", 0, 0.9)]
    found = compare(ours, theirs)
    assert (found.matched, found.alone) == (2, 2)
    assert found.pixels == 0.25
    assert found.confidence == pytest.approx(0.01)
    assert compare([], []).alone == 0
