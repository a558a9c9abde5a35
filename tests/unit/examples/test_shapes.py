"""The synthetic scenes, the samples made of them, and the pieces of the trainer."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from examples.shapes import dataset, make_samples
from examples.shapes.scenes import CLASSES, HELD_OUT_SEED, TRAIN_SEED, scene

SEED = 77


def test_a_scene_depends_on_its_seed_and_index_alone() -> None:
    first = scene(SEED, 5)
    scene(SEED, 6)
    again = scene(SEED, 5)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0], scene(SEED, 6)[0])
    assert not np.array_equal(first[0], scene(SEED + 1, 5)[0])
    assert TRAIN_SEED != HELD_OUT_SEED


@pytest.mark.parametrize(("width", "height"), [(640, 640), (320, 200), (200, 640), (1300, 700)])
def test_scenes_have_the_promised_types_and_boxes_inside(width: int, height: int) -> None:
    for index in range(12):
        picture, boxes, classes = scene(SEED, index, width, height)
        assert picture.shape == (height, width, 3)
        assert [a.dtype.name for a in (picture, boxes, classes)] == ["uint8", "float32", "int64"]
        assert boxes.shape == (len(classes), 4)
        assert len(boxes) <= 14
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= (width, height)).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 4).all()
        assert np.isin(classes, np.arange(len(CLASSES))).all()


def test_every_class_and_many_sizes_occur() -> None:
    scenes = [scene(SEED, index) for index in range(60)]
    counts = np.bincount(np.concatenate([s[2] for s in scenes]), minlength=len(CLASSES))
    assert (counts >= 20).all()
    sides = np.concatenate([(s[1][:, 2:] - s[1][:, :2]).max(1) for s in scenes])
    assert sides.min() < 24
    assert sides.max() > 200
    assert any(len(s[1]) == 0 for s in scenes)


def test_boxes_are_tight() -> None:
    """Near each of a box's four sides the picture has an edge: the shape's own, nearly always."""
    tight = 0
    for index in range(40):
        picture, boxes, _ = scene(SEED, index)
        edges = cv2.Canny(cv2.GaussianBlur(picture, (0, 0), 1), 40, 90)
        for x1, y1, x2, y2 in np.round(boxes).astype(int).tolist():
            sides = (
                edges[max(y1 - 2, 0) : y1 + 3, x1:x2],
                edges[max(y2 - 3, 0) : y2 + 2, x1:x2],
                edges[y1:y2, max(x1 - 2, 0) : x1 + 3],
                edges[y1:y2, max(x2 - 3, 0) : x2 + 2],
            )
            tight += all(side.any() for side in sides)
    total = sum(len(scene(SEED, index)[1]) for index in range(40))
    assert tight / total > 0.9


def test_letterboxed_scenes_keep_boxes_and_grey() -> None:
    picture, targets = dataset.letterboxed(SEED, 5, square=False)  # 640 x 360 on the canvas
    assert picture.shape == (3, 640, 640)
    assert (picture[:, :140] == dataset.GREY).all()
    real = targets[targets[:, 0] >= 0]
    _, boxes, classes = scene(SEED, 5, 640, 360)
    np.testing.assert_array_equal(real[:, 0], classes)
    np.testing.assert_allclose(real[:, 1:], boxes + np.array([0, 140, 0, 140]), atol=1e-4)
    assert len(targets) == dataset.MOST


def test_the_pool_makes_what_one_process_makes() -> None:
    pictures, targets = dataset.make(SEED, 5, processes=2)
    for index in (0, 4):
        picture, rows = dataset.letterboxed(SEED, index, square=False)
        np.testing.assert_array_equal(pictures[index], picture)
        np.testing.assert_array_equal(targets[index], rows)


def test_anchors_grow_and_lie_among_the_boxes() -> None:
    targets = np.stack([dataset.letterboxed(SEED, i, square=True)[1] for i in range(40)])
    anchors = dataset.anchors_for(targets)
    areas = anchors.reshape(9, 2).prod(1)
    assert (np.diff(areas) >= 0).all()
    assert anchors.min() > 10
    assert anchors.max() < 330
    np.testing.assert_array_equal(anchors, np.round(anchors))


def test_the_shipped_samples_are_what_the_script_writes(tmp_path: Path) -> None:
    written = make_samples.write(tmp_path)
    assert len(written) == 12
    for path in written:
        shipped = make_samples.PICTURES / path.name
        text = (tmp_path / "labels" / f"{path.stem}.txt").read_text()
        assert (make_samples.PICTURES / "labels" / f"{path.stem}.txt").read_text() == text
        mine, theirs = (np.asarray(Image.open(p).convert("RGB"), int) for p in (path, shipped))
        assert mine.shape == theirs.shape
        assert np.abs(mine - theirs).mean() < 1
        assert 20_000 <= shipped.stat().st_size <= 80_000


def test_the_sample_on_its_side_shows_upright() -> None:
    number = make_samples.ON_ITS_SIDE
    picture, _, _ = make_samples.sample(number)
    stored = Image.open(io.BytesIO(make_samples.jpeg(picture, on_its_side=True)))
    assert stored.size == make_samples.SIZES[number][::-1]
    shown = np.asarray(ImageOps.exif_transpose(stored), int)
    assert np.abs(shown - picture).mean() < 12


def test_labels_are_shares_of_the_picture() -> None:
    boxes = np.array([(10, 20, 30, 60)], np.float32)
    text = make_samples.labels(boxes, np.array([4]), 200, 100)
    assert text == "4 0.100000 0.400000 0.100000 0.400000\n"
