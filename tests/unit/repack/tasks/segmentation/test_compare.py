"""Masks in the gate: Dice, surface distance, and a precision that answers background alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from repack.model import Arrays
from repack.options import Options
from repack.samples import Sample
from repack.sources import Source
from repack.tasks.base import Comparison
from repack.tasks.segmentation.compare import DICE, compare, hausdorff95
from repack.tasks.segmentation.model import INPUT, OUTPUT, make

ARGMAX = {"kind": "argmax"}
REGIONS = {"kind": "regions", "order": [1, 2], "names": ["whole", "core"]}
SPACING = [3.0, 1.0, 1.0]


def source(answer: dict[str, Any], outputs: int, spacing: Any = SPACING) -> Source:
    settings = {
        "channels": [{"name": "CT", "normalisation": {"kind": "none"}}],
        "patch": [8, 16, 16],
        "spacing": spacing,
        "answer": answer,
        "label_values": [0, 1, 2],
    }
    labels = ("background", "ball", "rod")
    net = nn.Conv3d(1, outputs, 1)
    return Source(net, "nnunet", "n", labels, Path(), "", "segmentation", settings=settings)


def logits(masks: list[NDArray[np.bool_]], answer: dict[str, Any] = ARGMAX) -> Arrays:
    """Logits whose masks are the given ones; for argmax the background's channel is 0."""
    channels = [np.where(mask, 5.0, -5.0) for mask in masks]
    if answer["kind"] == "argmax":
        channels = [np.zeros_like(channels[0]), *channels]
    return {OUTPUT: np.stack(channels)[None].astype(np.float32)}


def box(*sides: slice) -> NDArray[np.bool_]:
    found = np.zeros((8, 16, 16), bool)
    found[sides] = True
    return found


BALL = box(slice(2, 6), slice(2, 10), slice(2, 10))
ROD = box(slice(0, 8), slice(12, 14), slice(4, 12))


def compared(
    other: Arrays, asked: str = "f32", answer: dict[str, Any] = ARGMAX, spacing: Any = SPACING
) -> Comparison:
    model = make(source(answer, 3 if answer is ARGMAX else 2, spacing), Options())
    return compare(model, asked, [logits([BALL, ROD], answer)], [other])


def test_the_same_masks_pass_and_are_shown() -> None:
    result = compared(logits([BALL, ROD]))
    assert result.failures == []
    assert result.figures["labels"] == {
        "ball": {"dice": 1.0, "hd95_mm": 0.0, "voxels": 256},
        "rod": {"dice": 1.0, "hd95_mm": 0.0, "voxels": 128},
    }
    assert result.figures["grid"] == "3 x 1 x 1 mm"
    assert result.figures["limits"] == {"dice": 0.999, "hd95_mm": 3.0}


@pytest.mark.parametrize("asked", sorted(DICE))
def test_the_border_of_dice(asked: str) -> None:
    """Of 256 voxels, so many are lost that Dice is just above or below what is asked."""

    def without(count: int) -> Arrays:
        mask = BALL.copy()
        mask.reshape(-1)[np.flatnonzero(mask)[:count]] = False
        return logits([mask, ROD])

    allowed = next(n for n in range(256) if 2 * (256 - n) / (512 - n) < DICE[asked]) - 1
    assert compared(without(allowed), asked).failures == []
    (line,) = compared(without(allowed + 1), asked).failures
    assert line.startswith("ball: Dice 0.9")
    assert line.endswith(f"at least {DICE[asked]}")


@pytest.mark.parametrize(("asked", "fine"), [("f32", False), ("bf16", True)])
def test_a_surface_that_moved_is_named_in_mm(asked: str, fine: bool) -> None:
    """Five voxels of 1 mm; f32 may move by one step of the coarsest axis, bf16 by two."""
    moved = BALL | box(slice(2, 6), slice(2, 10), slice(10, 15))
    lines = [f for f in compared(logits([moved, ROD & ~moved]), asked).failures if "apart" in f]
    assert lines == ([] if fine else ["ball: surface 5.00 apart, at most 3.00 mm for f32"])


def test_a_label_that_is_gone_is_named_whatever_its_size() -> None:
    (line,) = compared(logits([BALL, ROD & False]), "int8").failures
    assert line == "rod: gone, the original marks 128 voxels"


def test_a_few_voxels_decide_nothing() -> None:
    small = box(slice(0, 1), slice(0, 1), slice(0, 10))
    less = small.copy()
    less[0, 0, 9] = False
    original, converted = logits([BALL, small]), logits([BALL, less])
    result = compare(make(source(ARGMAX, 3), Options()), "f32", [original], [converted])
    assert result.failures == []
    assert result.figures["labels"]["rod"]["dice"] == pytest.approx(0.94737)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("f16", "fp16 overflow: every mask is background, the original marks 384 voxels"),
        ("bf16", "bf16 collapse: every mask is background"),
        ("int8", "int8 collapse: every mask is background"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, -np.inf, 0.0])
def test_masks_that_are_all_background_are_named(asked: str, words: str, value: float) -> None:
    other = np.full((1, 3, 8, 16, 16), value, np.float32)
    other[:, 0] = 0 if value == 0 else value
    (line,) = compared({OUTPUT: other}, asked).failures
    assert words in line
    assert ("6,144 logits are NaN or infinity" in line) == (value != 0)
    assert line.endswith("use bf16 or f32")


def test_regions_are_compared_each_on_its_own() -> None:
    result = compared(logits([BALL, ROD], REGIONS), answer=REGIONS)
    assert result.failures == []
    assert list(result.figures["labels"]) == ["whole", "core"]
    (line,) = compared(logits([BALL & False, ROD], REGIONS), "int8", REGIONS).failures
    assert line.startswith("whole: gone")


def test_without_spacing_distances_are_in_voxels() -> None:
    result = compared(logits([BALL, ROD]), spacing=None)
    assert result.figures["labels"]["ball"]["hd95_voxels"] == 0.0
    assert result.figures["limits"]["hd95_voxels"] == 1.0
    assert result.figures["grid"] == "1 x 1 x 1 voxels"


def test_the_hausdorff_distance_of_known_masks() -> None:
    a, b = box(slice(2, 4), slice(4, 8), slice(4, 8)), box(slice(3, 5), slice(4, 8), slice(4, 8))
    assert hausdorff95(a, b, [3.0, 1.0, 1.0]) == 3.0
    assert hausdorff95(a, b, [0.5, 1.0, 1.0]) == 0.5
    assert hausdorff95(a, a, [3.0, 1.0, 1.0]) == 0.0
    lone = a | box(slice(7, 8), slice(15, 16), slice(15, 16))
    assert hausdorff95(a, lone, [1.0, 1.0, 1.0]) == 0.0, "one voxel of 33 is within the 5 %"


def test_the_model_and_its_made_up_windows() -> None:
    model = make(source(ARGMAX, 3), Options())
    (taken,), (given,) = model.inputs, model.outputs
    assert (taken.name, taken.shape, taken.layout) == (INPUT, ("batch", 1, 8, 16, 16), "NCDHW")
    assert (given.name, given.shape) == (OUTPUT, ("batch", 3, 8, 16, 16))
    windows = model.random_inputs(5, 2)[INPUT]
    assert windows.shape == (2, 1, 8, 16, 16)
    assert windows.dtype == np.float32
    assert abs(float(windows.mean())) < 1e-3
    assert float(windows.std()) == pytest.approx(1, abs=1e-3)
    assert np.array_equal(windows, model.random_inputs(5, 2)[INPUT])
    neighbours = np.corrcoef(windows[0, 0, :, :, 1:].ravel(), windows[0, 0, :, :, :-1].ravel())
    assert neighbours[0, 1] > 0.5, "white noise would have no shapes"


def test_a_net_that_answers_otherwise_is_one_line() -> None:
    from handlers.errors import KitError

    with pytest.raises(
        KitError, match="answers 1x2x8x16x16 for a 1x1x8x16x16 window; expected 1x3x"
    ):
        make(source(ARGMAX, 2), Options())
    with pytest.raises(KitError, match="does not run on a 1x1x8x16x16 window"):
        other = source(ARGMAX, 3)
        make(replace(other, module=nn.Conv2d(1, 3, 1)), Options())


@pytest.mark.parametrize(
    ("asked", "sample", "fine"),
    [
        ("int8", [BALL, ROD], True),
        ("int8", [BALL, ROD & False], False),  # a label that no sample holds is judged on all
        ("bf16", [BALL, ROD], False),
    ],
)
def test_int8_is_judged_on_the_samples_for_labels_that_they_hold(
    asked: str, sample: list[NDArray[np.bool_]], fine: bool
) -> None:
    made_up, other = logits([BALL, ROD]), logits([BALL, np.roll(ROD, 2, 1)])
    given = logits(sample)
    model, samples = make(source(ARGMAX, 3), Options()), [Sample(Path("a.nii"), {})]
    result = compare(model, asked, [made_up, given], [other, given], samples)
    assert [line.split(":")[0] for line in result.failures] == ([] if fine else ["rod"])
    alone = {"int8": "ball, rod" if fine else "ball"}.get(asked)
    assert result.figures.get("judged_on_samples_alone") == alone


def test_int8_that_is_wrong_on_a_sample_is_refused() -> None:
    model, samples = make(source(ARGMAX, 3), Options()), [Sample(Path("a.nii"), {})]
    right, wrong = logits([BALL, ROD]), logits([BALL, np.roll(ROD, 2, 1)])
    failures = compare(model, "int8", [right, right], [right, wrong], samples).failures
    assert [line.split(":")[0] for line in failures] == ["rod"]
