"""Average precision and the pairing of boxes, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repack.tasks.detection.metrics import match, mean_average_precision


def rows(*values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, np.float32)


NO_BOXES = np.zeros((0, 6), np.float32)


def test_perfect_boxes_score_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = [rows((10, 10, 50, 50, 0.9, 0), (60, 10, 90, 40, 0.8, 1)), NO_BOXES]
    truth = [rows((10, 10, 50, 50, 0), (60, 10, 90, 40, 1)), np.zeros((0, 5), np.float32)]
    result = mean_average_precision(found, truth)
    assert result.map50 == pytest.approx(1.0)
    assert result.map50_95 == pytest.approx(1.0)
    assert set(result.classes) == {0, 1}
    assert capsys.readouterr().out == ""


def test_iou_of_0_6_counts_for_three_of_ten_thresholds() -> None:
    # 100 x 100 against 100 x 62 inside it: IoU 0.62, a hit at 0.50, 0.55 and 0.60 alone.
    result = mean_average_precision([rows((0, 0, 100, 62, 0.9, 3))], [rows((0, 0, 100, 100, 3))])
    assert result.map50 == pytest.approx(1.0)
    assert result.map50_95 == pytest.approx(0.3)


def test_a_better_scored_false_box_halves_precision() -> None:
    # Wrong first, right second: precision is 1/2 at every recall up to 1.
    found = [rows((200, 200, 240, 240, 0.9, 0), (0, 0, 40, 40, 0.5, 0))]
    result = mean_average_precision(found, [rows((0, 0, 40, 40, 0))])
    assert result.map50 == pytest.approx(0.5)


def test_a_missed_box_cuts_the_recall() -> None:
    # One of two found: precision 1 for the recall points 0.00 .. 0.50, 51 of 101.
    truth = [rows((0, 0, 40, 40, 0), (100, 100, 140, 140, 0))]
    result = mean_average_precision([rows((0, 0, 40, 40, 0.9, 0))], truth)
    assert result.map50 == pytest.approx(51 / 101)


def test_a_class_never_found_counts_as_zero() -> None:
    truth = [rows((0, 0, 40, 40, 0), (100, 100, 140, 140, 2))]
    result = mean_average_precision([rows((0, 0, 40, 40, 0.9, 0))], truth)
    assert result.map50 == pytest.approx(0.5)
    assert result.classes[2].ap50 == 0.0


def test_no_prediction_is_zero_and_no_truth_is_refused() -> None:
    assert mean_average_precision([NO_BOXES], [rows((0, 0, 9, 9, 1))])[:2] == (0.0, 0.0)
    with pytest.raises(ValueError, match="no box"):
        mean_average_precision([NO_BOXES], [np.zeros((0, 5), np.float32)])
    with pytest.raises(ValueError, match="1 pictures predicted, 0 with truth"):
        mean_average_precision([NO_BOXES], [])
    with pytest.raises(ValueError, match="expected rows of 6"):
        mean_average_precision([rows((0, 0, 9, 9, 1))], [rows((0, 0, 9, 9, 1))])


def test_match_reports_the_largest_differences() -> None:
    reference = rows((0, 0, 100, 100, 0.9, 0), (200, 0, 300, 100, 0.8, 1))
    candidate = rows((200.5, 0, 300, 100.25, 0.79, 1), (0, 0, 100, 99.75, 0.9, 0))
    result = match(reference, candidate)
    assert result.pairs.tolist() == [[0, 1], [1, 0]]
    assert (result.matched, result.reference_only, result.candidate_only) == (2, 0, 0)
    assert result.box_px == pytest.approx(0.5)
    assert result.confidence == pytest.approx(0.01, abs=1e-6)
    assert result.unmatched_confidence == 0.0


def test_match_keeps_classes_apart_and_counts_what_is_left() -> None:
    reference = rows((0, 0, 100, 100, 0.9, 0), (200, 0, 300, 100, 0.26, 1))
    candidate = rows((0, 0, 100, 100, 0.7, 2))
    result = match(reference, candidate)
    assert (result.matched, result.reference_only, result.candidate_only) == (0, 2, 1)
    assert (result.box_px, result.confidence) == (0.0, 0.0)
    assert result.unmatched_confidence == pytest.approx(0.9)


def test_match_pairs_each_box_once_best_overlap_first() -> None:
    reference = rows((0, 0, 100, 100, 0.9, 0))
    candidate = rows((0, 0, 100, 80, 0.9, 0), (0, 0, 100, 98, 0.5, 0))
    result = match(reference, candidate)
    assert result.pairs.tolist() == [[0, 1]]
    assert result.candidate_only == 1
    assert match(reference, candidate, iou=0.99).matched == 0


@pytest.mark.parametrize("pair", [(NO_BOXES, NO_BOXES), (np.zeros(0), np.zeros((0, 6)))])
def test_match_of_nothing(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert match(*pair).matched == 0


boxes = st.lists(
    st.tuples(
        st.floats(0, 500, width=32),
        st.floats(0, 500, width=32),
        st.floats(1, 100, width=32),
        st.floats(1, 100, width=32),
        st.integers(0, 2),
    ),
    max_size=12,
)


@given(boxes)
def test_boxes_match_themselves(values: list[tuple[float, float, float, float, int]]) -> None:
    found = np.array(
        [(x, y, x + w, y + h, 0.5, kind) for x, y, w, h, kind in values], np.float32
    ).reshape(-1, 6)
    result = match(found, found)
    assert (result.matched, result.reference_only, result.candidate_only) == (len(found), 0, 0)
    assert result.box_px == 0.0


@pytest.mark.parametrize("shift", [0, 2, 4, 8, 16])
def test_object_keypoint_similarity_is_that_of_the_definition(shift: float) -> None:
    """Of two points one is off: half of ``1 + exp(-d^2 / (2 s^2 k^2))``, k twice the sigma."""
    area, sigma = 2500.0, 0.05
    points = [100, 100, 2, 150, 150, 2]
    similarity = (1 + np.exp(-(shift**2) / (2 * area * (2 * sigma) ** 2))) / 2
    expected = sum(similarity >= t for t in np.linspace(0.5, 0.95, 10))
    real = {"keypoints": points, "num_keypoints": 2, "area": area}
    found = {"keypoints": [100, 100, 1, 150 + shift, 150, 1]}
    result = mean_average_precision(
        [rows((100, 100, 150, 150, 0.9, 0))], [rows((100, 100, 150, 150, 0))], "keypoints",
        ([[found]], [[real]]), [sigma] * 2,
    )  # fmt: skip
    assert result.map50_95 == pytest.approx(expected / 10)
