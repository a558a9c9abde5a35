"""A detector's part of the report, from figures that a real repack left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repack.tasks.detection import report
from repack.tolerances import TOLERANCES

REPORT = Path(__file__).parents[2] / "report" / "format1.report.json"


def figures() -> dict[str, Any]:
    """Of the shipped detector, on twelve labelled samples."""
    found = json.loads(REPORT.read_text(encoding="utf-8"))
    task: dict[str, Any] = found["passport"]["gate"]["accelerated"]["task"]
    return task


@pytest.mark.parametrize("precision", TOLERANCES)
def test_every_limit_is_of_a_figure_that_the_gate_measures(precision: str) -> None:
    measured = figures()
    assert report.limits(precision).keys() <= {*measured, *measured["map"]["original"]}


def test_labelled_samples_leave_nothing_open_and_are_the_headline() -> None:
    assert report.unchecked(figures(), 12) == []
    assert report.headline(figures()) == {
        "name": "accuracy", "value": "mAP50-95 0.8908", "note": "original 0.8908, 12 samples",
    }  # fmt: skip


def test_without_labels_or_boxes_the_accuracy_is_open() -> None:
    unlabelled = {**figures(), "map": "not compared: no sample has a label file of boxes"}
    (note,) = report.unchecked(unlabelled, 12)
    assert note["what"] == "Accuracy" and note["serious"]
    assert report.unchecked(unlabelled, 0) == [], "that there are no samples is told already"
    assert report.headline(unlabelled) == {
        "name": "agreement", "value": "100.0% of boxes", "note": "96 compared",
    }  # fmt: skip
    empty = {**unlabelled, "boxes_matched": "none to compare"}
    assert [n["what"] for n in report.unchecked(empty, 12)] == ["Accuracy", "Boxes"]
    assert report.headline(empty) is None
