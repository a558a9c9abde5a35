"""Suppression against a slow and obviously right one, and the way back to the picture's pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from handlers import boxes, images
from handlers.heads.yolov5 import YOLOv5
from handlers.letterbox import Letterbox

Rows = NDArray[np.float32]
HEAD = YOLOv5(classes=3)


def overlap(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return width * height / (sum(areas) - width * height)


def slow_nms(prediction: Rows, confidence: float, iou: float, limit: int) -> list[list[float]]:
    """One box at a time, from the definition, in Python's own floats."""
    candidates = []
    for row in prediction.tolist():
        x, y, w, h, objectness, *classes = row
        scores = [float(np.float32(c) * np.float32(objectness)) for c in classes]
        best = max(scores)
        if best > np.float32(confidence):
            corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            candidates.append([*corners, best, float(scores.index(best))])
    candidates.sort(key=lambda c: -c[4])
    kept: list[list[float]] = []
    for candidate in candidates:
        rivals = [k for k in kept if k[5] == candidate[5]]
        if all(overlap(candidate, k) <= iou for k in rivals):
            kept.append(candidate)
    return kept[:limit]


def predictions(classes: int = 3, most: int = 25) -> st.SearchStrategy[Rows]:
    """Boxes at whole even pixels, so that both ways of computing an overlap are exact."""
    even = st.integers(0, 40).map(lambda n: 2.0 * n)
    side = st.integers(1, 20).map(lambda n: 2.0 * n)
    share = st.floats(0, 1, width=32)
    row = st.tuples(even, even, side, side, share, *[share] * classes)
    return st.lists(row, max_size=most).map(
        lambda rows: np.array(rows, np.float32).reshape(-1, 5 + classes)
    )


@given(predictions(), st.sampled_from([0.1, 0.25, 0.5]), st.sampled_from([0.2, 0.45, 0.7]))
@settings(max_examples=300, deadline=None)
def test_nms_is_the_slow_one(prediction: Rows, confidence: float, iou: float) -> None:
    want = np.array(slow_nms(prediction, confidence, iou, 300)).reshape(-1, 6)
    for few in (boxes.FEW, 0):  # both ways to the overlaps
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(boxes, "FEW", few)
            found = boxes.nms(prediction, HEAD, confidence, iou, 300)
        np.testing.assert_allclose(found, want, rtol=1e-6)
        assert found.dtype == np.float32


@given(predictions(), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_the_limit_keeps_the_best(prediction: Rows, limit: int) -> None:
    every = boxes.nms(prediction, HEAD, 0.1, 0.45, 300)
    for few in (boxes.FEW, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(boxes, "FEW", few)
            best = boxes.nms(prediction, HEAD, 0.1, 0.45, limit)
        np.testing.assert_array_equal(best, every[:limit])


def test_thresholds_themselves_are_outside() -> None:
    at = np.array([[10, 10, 4, 4, 0.5, 0.5]], np.float32)
    assert len(boxes.nms(at, HEAD, 0.25, 0.45, 10)) == 0
    assert len(boxes.nms(at, HEAD, 0.2499, 0.45, 10)) == 1
    # 20 x 20 and its half: overlap exactly 0.5, which is not larger than 0.5.
    half = np.array([[10, 10, 20, 20, 1, 0.9], [5, 10, 10, 20, 1, 0.8]], np.float32)
    assert len(boxes.nms(half, HEAD, 0.25, 0.5, 10)) == 2
    assert len(boxes.nms(half, HEAD, 0.25, 0.49, 10)) == 1


def test_classes_are_kept_apart_up_to_the_last_of_coco() -> None:
    prediction = np.zeros((2, 85), np.float32)
    prediction[:, :5] = (50, 50, 40, 40, 1)
    prediction[0, 5 + 78] = 0.9
    prediction[1, 5 + 79] = 0.8
    assert boxes.nms(prediction, HEAD, 0.25, 0.45, 10)[:, 5].tolist() == [78, 79]


@pytest.mark.parametrize("few", [boxes.FEW, 0])
def test_fractions_of_a_pixel_decide_in_the_last_class_too(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "FEW", few)
    prediction = np.zeros((2, 85), np.float32)
    prediction[:, :5] = (5.03, 5, 10, 10, 1)
    prediction[1, 0] += 3.78  # they overlap by 0.4514
    prediction[:, 5 + 79] = 0.9, 0.8
    assert len(boxes.nms(prediction, HEAD, 0.25, 0.45, 10)) == 1
    assert len(boxes.nms(prediction, HEAD, 0.25, 0.452, 10)) == 2


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_found(rows: int) -> None:
    found = boxes.nms(np.zeros((rows, 8), np.float32), HEAD, 0.25, 0.45, 300)
    assert (found.shape, found.dtype.name) == ((0, 6), "float32")


def test_not_a_number_is_no_box() -> None:
    prediction = np.full((4, 8), np.nan, np.float32)
    assert len(boxes.nms(prediction, HEAD, 0.25, 0.45, 300)) == 0


@given(st.integers(2, 3000), st.integers(2, 3000), st.data())
@settings(max_examples=100, deadline=None)
def test_a_box_comes_back_to_where_it_was(width: int, height: int, data: st.DataObject) -> None:
    _, place = images.letterbox(np.zeros((height, width, 3), np.uint8), 320, 320)
    x1, x2 = sorted(data.draw(st.tuples(*[st.floats(0, width)] * 2)))
    y1, y2 = sorted(data.draw(st.tuples(*[st.floats(0, height)] * 2)))
    box = np.array([[x1, y1, x2, y2]])
    shift = np.array([place.left, place.top] * 2)
    model = np.concatenate((box * place.scale_x + shift, [[0.9, 2]]), 1).astype(np.float32)
    found = boxes.to_picture(model, place, width, height)
    np.testing.assert_allclose(found[:, :4], box, atol=2e-4 * max(width, height))
    np.testing.assert_allclose(found[0, 4:], (0.9, 2), rtol=1e-6)


def test_boxes_are_cut_at_the_pictures_borders() -> None:
    place = Letterbox(0.5, 0.5, 10, 20)
    model = np.array([[-50, -50, 900, 900, 0.5, 1]], np.float32)
    found = boxes.to_picture(model, place, 300, 200)
    assert found.tolist() == [[0, 0, 300, 200, 0.5, 1]]
    assert model[0, 0] == -50, "the input was changed"
