"""The GPU's boxes, by the same code on the CPU, are those of the handlers' own suppression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from handlers.boxes import CANDIDATES
from handlers.gpu.boxes import Decoder
from tests.support import detector_maps as made
from tests.support.detector_maps import OnTheCpu


def decoder(**changed: Any) -> Decoder:
    settings = {**made.SETTINGS, **changed}
    return OnTheCpu(made.HEAD, settings, torch.device("cpu"))


@pytest.mark.parametrize("objectness", [-30, -6, -3, 1])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_boxes_as_the_cpu(objectness: float, batch: int) -> None:
    maps = made.maps(7, batch, 160, objectness)
    want = made.expected(maps)
    found = decoder().find(maps).numpy()
    assert objectness > -30 or len(found) == 0
    for picture, boxes in enumerate(want):
        made.same(boxes, found[found[:, 0] == picture, 1:])
    assert (np.diff(found[:, 0]) >= 0).all()


def test_a_crowd_is_cut_at_the_limit_of_each_picture() -> None:
    maps = made.maps(8, 2, 160, 1)
    found = decoder(max_detections=5, iou=0.9).find(maps).numpy()
    assert [int((found[:, 0] == i).sum()) for i in (0, 1)] == [5, 5]
    for picture in (0, 1):
        mine = found[found[:, 0] == picture]
        assert (np.diff(mine[:, 5]) <= 0).all()


def test_pictures_of_a_batch_do_not_suppress_each_other() -> None:
    one = made.maps(9, 1, 160, -3)
    both = [torch.cat([m, m]) for m in (x.permute(0, 1, 4, 2, 3) for x in one)]
    found = decoder().find([m.permute(0, 1, 3, 4, 2) for m in both]).numpy()
    halves = [found[found[:, 0] == i, 1:] for i in (0, 1)]
    assert len(halves[0])
    np.testing.assert_allclose(halves[0], halves[1])


@pytest.mark.parametrize("objectness", [-30, -6, -4])
def test_candidates_lead_to_the_same_boxes(objectness: float) -> None:
    maps = made.maps(7, 3, 320, objectness)
    used = decoder()
    candidates = used.candidates(maps)
    assert candidates.shape == (3, CANDIDATES, 7)
    found = used.chosen(candidates)
    assert found is not None
    torch.testing.assert_close(found, used.find(maps))
    assert objectness == -30 or len(found)


def test_more_boxes_than_candidates_are_told() -> None:
    used = decoder()
    maps = made.maps(7, 2, 320, 1)
    assert int((maps[0][..., 4] > used.least).sum()) > 2 * CANDIDATES
    assert used.chosen(used.candidates(maps)) is None


def test_fewer_cells_than_candidates_are_all_looked_at() -> None:
    used = decoder()
    maps = made.maps(7, 1, 64, 1)
    found = used.chosen(used.candidates(maps))
    assert found is not None
    torch.testing.assert_close(found, used.find(maps))
