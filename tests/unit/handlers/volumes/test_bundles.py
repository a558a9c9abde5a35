"""The handler's steps for MONAI's bundles, against MONAI's own transforms."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from handlers.volumes import bundles
from handlers.volumes.bundles import Bundle, Cut

Floats = NDArray[np.float32]


def bundle(inverted: str = "logits", margin: Any = (2, 0, 1), inside: bool = False) -> Bundle:
    return Bundle(("spacing", "crop", "normalise"), margin, inside, inverted)


def scan(seed: int = 0) -> Floats:
    """Two channels, foreground in the middle and at one edge."""
    found = np.full((2, 9, 8, 7), -1, np.float32)
    found[0, 3:5, 2:6, 4:7] = np.random.default_rng(seed).uniform(1, 2, (2, 4, 3))
    found[1, 6, 3, 5] = 1
    return found


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("margin", [(0, 0, 0), (2, 0, 1), (5, 5, 5)])
def test_the_crop_is_monais(margin: tuple[int, int, int], inside: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transforms = pytest.importorskip("monai.transforms")
        theirs = transforms.CropForeground(margin=margin, allow_smaller=inside)(scan())
    ours, _ = bundles.cut(scan(), bundle(margin=margin, inside=inside))
    assert ours.shape == theirs.shape
    assert np.array_equal(ours, np.asarray(theirs))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("margin", [(0, 0, 0), (5, 5, 5)])
def test_planes_return_to_where_they_were_cut(axis: int, margin: tuple[int, int, int]) -> None:
    given = np.maximum(scan(), 0)
    cropped, place = bundles.cut(given, bundle(margin=margin))
    planes = iter(np.moveaxis(cropped, axis + 1, 0))
    whole = list(bundles.finished(planes, bundle(margin=margin), place, axis))
    assert np.array_equal(np.stack(whole), np.moveaxis(given, axis + 1, 0))


def test_a_scan_without_foreground_stays_whole() -> None:
    empty = np.zeros((1, 4, 4, 4), np.float32)
    cropped, place = bundles.cut(empty, bundle())
    assert cropped.shape == (1, 4, 4, 4)
    assert place == Cut((0, 0, 0), (4, 4, 4), (4, 4, 4))


def test_what_is_inverted() -> None:
    logits = np.array([[[-1.0, 3]], [[1.0, -2]], [[0.5, 0]]], np.float32)
    (soft,) = bundles.finished(iter([logits]), bundle("softmax"), None, 0)
    assert np.allclose(soft.sum(axis=0), 1)
    assert np.allclose(soft[:, 0, 1], np.exp([3, -2, 0]) / np.exp([3, -2, 0]).sum())
    (mask,) = bundles.finished(iter([logits]), bundle("mask"), None, 0)
    assert mask.tolist() == [[[1, 0]]]
    (sigmoid,) = bundles.finished(iter([logits[:1]]), bundle("sigmoid"), None, 0)
    assert np.allclose(sigmoid, 1 / (1 + np.exp([[[1, -3]]])))
    (plain,) = bundles.finished(iter([logits]), bundle("logits"), None, 0)
    assert plain is logits


def test_a_logit_that_is_no_number_stays_visible_in_a_mask() -> None:
    logits = np.array([[[np.nan, 3]], [[1.0, -2]]], np.float32)
    (mask,) = bundles.finished(iter([logits]), bundle("mask"), None, 0)
    assert np.isnan(mask[0, 0, 0])
    assert mask[0, 0, 1] == 0


def test_labels_on_the_scans_grid() -> None:
    threshold = {"kind": "sigmoid_threshold", "threshold": 0.6}
    shares = np.array([[[0.59, 0.6, 0.9]]], np.float32)
    assert bundles.chosen(shares, bundle("sigmoid"), threshold).tolist() == [[0, 1, 1]]
    logits = np.log(shares / (1 - shares)) + np.float32(1e-4)
    assert bundles.chosen(logits, bundle("logits"), threshold).tolist() == [[0, 1, 1]]
    assert bundles.chosen(np.array([[[2.0]]], np.float32), bundle("mask"), {}).tolist() == [[2]]
    several = np.array([[[0.2]], [[0.5]], [[0.3]]], np.float32)
    assert bundles.chosen(several, bundle("softmax"), {"kind": "argmax"}).tolist() == [[1]]


SETTINGS = {
    "framework": "monai",
    "monai": {"order": ["orientation", "spacing", "normalise"], "invert_at": "mask", "crop": None},
}


def test_settings_are_checked() -> None:
    assert bundles.read({"framework": "nnunet"}) is None
    found = bundles.read(SETTINGS)
    assert found == Bundle(("spacing", "normalise"), None, False, "mask")
    for change in (
        {"order": ["turn"]},
        {"invert_at": "answer"},
        {"order": ["crop", "spacing"], "crop": {"margin": [0, 0, 0], "allow_smaller": False}},
    ):
        with pytest.raises(ValueError, match=r"order|crop"):
            bundles.read({"framework": "monai", "monai": {**SETTINGS["monai"], **change}})  # type: ignore[dict-item]


def test_memory_counts_the_widest_margin() -> None:
    assert bundles.largest((9, 8, 7), bundle(margin=(2, 0, 1))) == (13, 8, 9)
    assert bundles.largest((9, 8, 7), bundle(margin=(2, 0, 1), inside=True)) == (9, 8, 7)
    assert bundles.largest((9, 8, 7), None) == (9, 8, 7)
