"""Label maps: on the picture's own pixels, as run lengths, areas and colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from handlers import semantic
from handlers.errors import TooLarge, Unprocessable
from handlers.letterbox import placed
from handlers.payload import MAX_BODY_VARIABLE


def scores(classes: int, h: int, w: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, (classes, h, w)).astype(np.float32)


@pytest.mark.parametrize("size", [(200, 320), (33, 47), (16, 12), (5, 9)])
@pytest.mark.parametrize("band", [2**18, 700])
def test_scores_are_enlarged_before_the_best_is_chosen(
    size: tuple[int, int], band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic, "BAND", band)
    given, place = scores(40, 16, 12), placed(size, (64, 48), "stretch")[0]
    given[7:] -= 4  # most classes are the best nowhere, as of 150 that a network knows
    found = semantic.label_map(given, 40, None, place, (64, 48), size)
    whole = torch.nn.functional.interpolate(torch.from_numpy(given)[None], size, mode="bilinear")
    want = whole[0].argmax(0).numpy()
    assert found.dtype == np.uint8
    assert (found == want).mean() > 0.99  # OpenCV places samples to 1/32 of a score's distance


@pytest.mark.parametrize("size", [(200, 320), (320, 200), (57, 101)])
@pytest.mark.parametrize("mode", ["letterbox", "corner", "stretch"])
@pytest.mark.parametrize("numbers", [False, True])
def test_a_class_lies_where_its_object_is(size: tuple[int, int], mode: str, numbers: bool) -> None:
    place = placed(size, (64, 64), mode)[0]
    y, x = np.mgrid[:64, :64] + 0.5
    cx, cy = size[1] * 0.4 * place.scale_x + place.left, size[0] * 0.6 * place.scale_y + place.top
    inside = (x < cx) & (y < cy)
    values = inside.astype(np.int32) if numbers else np.stack((~inside, inside)).astype(np.float32)
    found = semantic.label_map(values, 2, None, place, (64, 64), size)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    want = (x < size[1] * 0.4) & (y < size[0] * 0.6)
    assert (found == want).mean() > 0.97


def test_the_only_class_counts_above_its_threshold() -> None:
    place = placed((4, 6), (4, 6), "stretch")[0]
    given = np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 4, 6)
    found = semantic.label_map(given, 2, 0.0, place, (4, 6), (4, 6))
    np.testing.assert_array_equal(found, given[0] > 0)


def test_what_is_no_class_is_refused() -> None:
    place = placed((4, 4), (4, 4), "stretch")[0]
    values = np.full((4, 4), 3, np.int32)
    with pytest.raises(Unprocessable, match=r"classes 3 to 3 for this picture; it was packed with"):
        semantic.label_map(values, 3, None, place, (4, 4), (4, 4))
    given = scores(3, 4, 4)
    given[1, 2, 2] = np.nan
    with pytest.raises(Unprocessable, match="NaN or infinity"):
        semantic.label_map(given, 3, None, place, (4, 4), (4, 4))


def test_many_classes_have_16_bits() -> None:
    place = placed((8, 8), (8, 8), "stretch")[0]
    values = np.full((8, 8), 299, np.int64)
    found = semantic.label_map(values, 300, None, place, (8, 8), (8, 8))
    assert found.dtype == np.uint16
    assert found.max() == 299


@pytest.mark.parametrize("shape", [(7, 5), (1, 9), (9, 1), (1, 1)])
def test_run_lengths_say_every_pixel(shape: tuple[int, int]) -> None:
    found = np.random.default_rng(1).integers(0, 4, shape).astype(np.uint8)
    told = semantic.classes(found, "abcd")
    whole = np.full(shape, 99)
    for one in told:
        counts = one["mask"]["counts"]
        inside = np.repeat(np.arange(len(counts)) % 2, counts).reshape(shape[::-1]).T > 0
        assert one["mask"]["size"] == list(shape)
        assert one["pixels"] == inside.sum()
        assert one["share"] == pytest.approx(inside.mean(), abs=1e-6)
        whole[inside] = one["class_id"]
    np.testing.assert_array_equal(whole, found)
    assert [c["pixels"] for c in told] == sorted((c["pixels"] for c in told), reverse=True)


def test_run_lengths_that_cannot_be_sent_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MAX_BODY_VARIABLE, "1000")
    ragged = (np.mgrid[:64, :64].sum(0) % 2).astype(np.uint8)
    with pytest.raises(TooLarge, match="or more bytes and the server sends at most 1,000"):
        semantic.classes(ragged, "ab")


def test_a_background_stays_as_it_is_and_others_are_tinted() -> None:
    image = np.full((60, 80, 3), 200, np.uint8)
    found = np.zeros((60, 80), np.uint8)
    found[40:] = 1
    drawn = semantic.draw(image, found, ["background", "road"])
    assert (drawn[39, 60:] == 200).all()
    mixed = 0.45 * 200 + 0.55 * np.array(semantic.colour(1))
    np.testing.assert_allclose(drawn[50, 60], mixed, atol=1)


def test_of_equal_scores_the_first_class_is_taken() -> None:
    """Also where another of the same score is looked at first, as it has the best anywhere."""
    given = np.ones((3, 4, 4), np.float32)
    given[1, 0, 0], given[2, 3, 3] = 2, 3
    place = placed((4, 4), (4, 4), "stretch")[0]
    found = semantic.label_map(given, 3, None, place, (4, 4), (4, 4))
    want = np.zeros((4, 4))
    want[0, 0], want[3, 3] = 1, 2
    np.testing.assert_array_equal(found, want)
