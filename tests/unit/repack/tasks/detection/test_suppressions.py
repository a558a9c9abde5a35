"""Boxes that only rounding left out are told from boxes that are missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from handlers.boxes import nms
from handlers.heads.rows import Ranked, Scored
from repack.model import Model
from repack.tasks.detection import compare
from repack.tasks.detection.suppressions import within_rounding
from tests.support import exported_detectors as made
from tests.support.loading import model

HEAD = Scored(classes=2)
SETTINGS: dict[str, Any] = {
    "confidence": 0.25,
    "iou": 0.5,
    "max_detections": 300,
    "head": HEAD.to_setting(),
}
Rows = NDArray[np.float32]

EDGE = np.array(  # the second's overlap with the first is 0.5 but for rounding
    [
        [30, 30, 20, 20, 0.9, 0.1],
        [30, 35 + 5 / 3, 20, 20, 0.8, 0.1],
        [80, 30, 20, 20, 0.1, 0.7],
        [80, 31, 20, 20, 0.1, 0.6],
    ],
    np.float32,
)


def survivors(rows: Rows) -> Rows:
    found: Rows = nms(rows, HEAD, 0.25, 0.5, 300)
    return found


def moved(by: float) -> Rows:
    found: Rows = EDGE.copy()
    found[1, 1] += by
    return found


def test_a_suppression_at_the_threshold_may_fall_either_way() -> None:
    apart, close = moved(1e-5), moved(-1e-5)
    assert (len(survivors(apart)), len(survivors(close))) == (3, 2)
    assert within_rounding(apart, close, survivors(close), SETTINGS)
    assert within_rounding(close, apart, survivors(apart), SETTINGS)


def test_two_boxes_as_confident_as_each_other_may_change_places() -> None:
    one = EDGE.copy()
    one[2:, 1], one[2:, 5] = (30, 34), (0.6, 0.6 + 1e-6)
    other = one.copy()
    other[2:, 5] = other[3:1:-1, 5]
    for first, second in ((one, other), (other, one)):
        assert within_rounding(first, second, survivors(second), SETTINGS)
    assert not within_rounding(one, one, survivors(other), SETTINGS)


def test_what_follows_from_such_a_suppression_is_no_loss() -> None:
    third = np.array([[30, 42, 20, 20, 0.5, 0.1]], np.float32)  # dropped for the second alone
    apart, close = (np.concatenate((moved(by), third)) for by in (1e-5, -1e-5))
    assert len(survivors(apart)) == len(survivors(close)) == 3
    assert within_rounding(apart, close, survivors(close), SETTINGS)
    assert not within_rounding(apart, close, np.delete(survivors(close), 2, 0), SETTINGS)


@pytest.mark.parametrize("far", [0.01, 0.1])
def test_a_suppression_that_is_sure_must_be_the_originals(far: float) -> None:
    apart, close = moved(far), moved(-far)
    assert not within_rounding(apart, apart, survivors(close), SETTINGS)
    assert not within_rounding(close, close, survivors(apart), SETTINGS)


def test_a_box_that_is_missing_or_made_up_is_found() -> None:
    rows = moved(1)
    right = survivors(rows)
    assert within_rounding(rows, rows, right, SETTINGS)
    for i in range(len(right)):
        assert not within_rounding(rows, rows, np.delete(right, i, 0), SETTINGS)
    for column, off in ((1, 2.0), (4, 0.01), (5, 1.0)):
        wrong = right.copy()
        wrong[-1, column] += off
        assert not within_rounding(rows, rows, wrong, SETTINGS)


@pytest.mark.parametrize(("column", "by"), [(0, 0.8), (4, 0.01)])
def test_a_difference_beyond_rounding_excuses_nothing(column: int, by: float) -> None:
    other = EDGE.copy()
    other[:, column] -= by
    assert within_rounding(EDGE, EDGE, survivors(EDGE), SETTINGS)
    assert not within_rounding(EDGE, other, survivors(other), SETTINGS)


def test_the_most_boxes_leave_out_the_least_confident() -> None:
    settings = {**SETTINGS, "max_detections": 2}
    best = nms(EDGE, HEAD, 0.25, 0.5, 2)
    assert within_rounding(EDGE, EDGE, best, settings)
    assert not within_rounding(EDGE, EDGE, best[:1], settings)


def test_what_suppresses_nothing_is_not_excused() -> None:
    ranked = {**SETTINGS, "head": Ranked(classes=2).to_setting()}
    assert not within_rounding(EDGE, EDGE, survivors(EDGE), ranked)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Model:
    given = model(made.onnx_file(tmp_path_factory.mktemp("edge"), "anchor-free"), task="detection")
    return replace(given, settings={**given.settings, **SETTINGS})


@pytest.mark.parametrize("asked", ["f32", "f16"])
def test_the_gate_says_what_rounding_decided(asked: str, detector: Model) -> None:
    want, have = ({"boxes": moved(by)[None]} for by in (1e-5, -1e-5))
    found = compare.compare(detector, asked, [want], [have], [])
    if asked == "f32":
        assert not found.failures
        assert found.figures["suppressions_decided_by_rounding"] == 1
        assert found.figures["boxes_compared"] == 2
    else:
        assert "boxes: 2 of 3 matched" in found.failures[0]
    kept = np.insert(survivors(moved(1e-5)), 0, 0, axis=1)
    less = {"boxes": want["boxes"], "detections": kept[:2]}
    found = compare.compare(detector, asked, [want], [less], [])
    assert "boxes: 2 of 3 matched" in found.failures[0]


def test_the_most_boxes_are_those_of_a_picture_not_of_a_class(detector: Model) -> None:
    given = replace(detector, settings={**detector.settings, "max_detections": 2})
    whole = {"boxes": moved(1)[None], "detections": np.insert(survivors(moved(1)), 0, 0, axis=1)}
    assert len(whole["detections"]) == 3
    found = compare.compare(given, "f32", [whole], [whole], [])
    assert not found.failures
    assert found.figures["boxes_compared"] == 2
