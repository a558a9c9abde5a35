"""Our network against the real package's answers, kept as small data (tests/parity/README.md)."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from handlers.boxes import nms
from handlers.heads.yolov5 import YOLOv5
from repack.sources import Source
from tests.parity.compare_yolov5 import RAW_LIMIT, box_error, raw_error
from tests.support.loading import load

HEAD = YOLOv5(classes=3)
DATA = Path(__file__).parents[3] / "data"


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A yolov5n that the real package built and saved (tests/parity)."""
    path = tmp_path_factory.mktemp("official") / "yolov5n.pt"
    path.write_bytes(lzma.decompress((DATA / "yolov5n_official.pt.xz").read_bytes()))
    return load(path)


def test_answers_equal_those_of_the_real_package(official: Source) -> None:
    assert official.module is not None
    assert official.network == "yolov5n"
    assert official.labels == ("circle", "square", "triangle")
    with np.load(DATA / "yolov5n_official.npz") as data:
        inputs, theirs, boxes = data["inputs"], data["raw"], data["boxes"]
        counts, (confidence, iou, limit) = data["counts"], data["settings"]
    batch = torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy()).float() / 255
    with torch.no_grad():
        ours = official.module(batch).numpy()
    assert raw_error(ours, theirs) <= RAW_LIMIT
    found = [nms(rows, HEAD, float(confidence), float(iou), int(limit)) for rows in ours]
    expected = np.split(boxes, np.cumsum(counts)[:-1])
    for mine, real in zip(found, expected, strict=True):
        assert len(real) > 0
        distance, lonely = box_error(mine, real)
        assert lonely == 0
        assert distance <= 0.5


def test_the_comparison_notices_a_small_difference(official: Source) -> None:
    with np.load(DATA / "yolov5n_official.npz") as data:
        theirs, boxes = data["raw"], data["boxes"]
    other = theirs.copy()
    other[0, 100, 4] += 3e-4
    assert raw_error(other, theirs) > RAW_LIMIT
    assert raw_error(theirs[:, :-1], theirs) == float("inf")
    assert raw_error(np.full_like(theirs, np.nan), theirs) == float("inf")
    assert box_error(boxes, boxes) == (0.0, 0)
    assert box_error(boxes[1:], boxes)[1] == 1
    assert box_error(boxes + np.eye(6, dtype=np.float32)[0], boxes)[1] > 0
    assert box_error(boxes + np.eye(6, dtype=np.float32)[5], boxes)[1] > 0
