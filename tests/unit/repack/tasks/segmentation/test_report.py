"""A segmentation's part of the report: what is shown is what the arrays hold."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handlers.drawing import COLOURS
from repack.model import Arrays
from repack.samples import Sample
from repack.tasks import reporting
from repack.tasks.segmentation import planes, report
from tests.support.reports import SIDES, SPACING, segmentation, volume


def test_each_axis_shows_the_slice_that_differs_most() -> None:
    scan, mask = np.zeros(SIDES, np.float32), np.zeros(SIDES, np.int64)
    mask[4:16, 8:20, 6:18] = 1
    other = mask.copy()
    other[9, 11, 7:15] = 0
    other[9, 11, 20:23] = 2
    found = planes.cut(scan, mask, other, SPACING)
    assert [(p.axis, p.place) for p in found] == [(0, (9, 20)), (1, (11, 36)), (2, (7, 28))]
    assert [p.differing for p in found] == [11, 11, 1]
    assert [p.extent for p in found] == [(36 * 0.8, 28 * 0.8), (50.0, 28 * 0.8), (50.0, 36 * 0.8)]
    for p in found:
        height, width = p.scan.shape[:2]
        assert max(height, width) == planes.SIDE
        assert abs(height / width - p.extent[0] / p.extent[1]) < 0.01, "not as the body is shaped"
        colours = {tuple(c) for c in p.difference.reshape(-1, 3)}
        assert planes.MISSED in colours
        assert (planes.ADDED in colours) == (p.axis != 2)


def test_equal_masks_leave_no_colour_in_the_difference() -> None:
    mask = np.zeros(SIDES, np.int64)
    mask[4:16, 8:20, 6:18] = 1
    for p in planes.cut(np.random.default_rng(1).normal(size=SIDES), mask, mask):
        assert p.differing == 0
        assert (p.difference == p.difference[..., :1]).all(), "grey only"
        assert (p.original == p.converted).all() and (p.original != p.scan).any()


def test_a_flat_picture_and_a_scan_of_nothing_but_nan() -> None:
    mask = np.eye(16, dtype=np.int64)
    (plane,) = planes.cut(np.full((16, 16), np.nan, np.float32), mask, mask)
    assert plane.axis is None and plane.scan.shape == (planes.SIDE, planes.SIDE, 3)


def test_masks_follow_the_passports_answer() -> None:
    logits = np.array([[2.0, -1, -1, -1], [1.0, 3, -1, 0.5], [0.0, 4, 1, -1]])[:, None, :]
    argmax = report.mask(logits, {"answer": {"kind": "argmax"}})
    assert argmax.tolist() == [[0, 2, 2, 1]]
    regions = report.mask(logits, {"answer": {"kind": "regions", "order": [3, 1, 2]}})
    assert regions.tolist() == [[1, 2, 2, 1]]
    strict = {"kind": "sigmoid_threshold", "threshold": 0.9}
    assert report.mask(logits, {"answer": strict}).tolist() == [[0, 3, 0, 0]]


def test_a_segmentations_pictures() -> None:
    model, runtime, reference = segmentation()
    found = report.pictures(model, runtime, reference)
    (sample,) = found["samples"]
    _, want, have = volume()
    differing = int((want["OUTPUT__0"].argmax(1) != have["OUTPUT__0"].argmax(1)).sum())
    assert differing > 100
    assert sample["differs"] == differing
    assert sample["note"].startswith(f"{differing:,} of {np.prod(SIDES):,} voxels differ")
    assert [p["label"] for p in sample["pictures"]] == 3 * [
        "scan", "original", "converted", "difference",
    ]  # fmt: skip
    for p in sample["pictures"]:
        head, _, data = p["uri"].partition(",")
        assert head == "data:image/jpeg;base64"
        assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == planes.SIDE
        assert " mm" in p["note"]


def test_the_legend_names_what_is_drawn_and_its_colour() -> None:
    model, runtime, reference = segmentation()
    legend = report.pictures(model, runtime, reference)["legend"]
    assert legend["original and converted"] == [{"label": "trunk", "colour": "#e63946"}]
    assert [e["colour"] for e in legend["difference"]] == ["#d55e00", "#0072b2"]
    given, answer = reference.inputs[0], reference.answers[0]["OUTPUT__0"].copy()
    answer[:, 1] = -9  # no trunk anywhere
    bare = type(reference)([given], [{"OUTPUT__0": answer}], reference.samples)
    still = type("Still", (), {"infer": lambda *_, **__: {"OUTPUT__0": answer}})
    legend = report.pictures(model, still(), bare)["legend"]
    assert legend["original and converted"] == [{"label": "branch", "colour": "#1d78be"}]


def test_a_regions_colour_is_that_of_the_value_it_is_drawn_as() -> None:
    model, runtime, reference = segmentation()
    order, names = [3, 1, 2], ["whole", "core", "rest"]
    answer = {"kind": "regions", "order": order, "names": names}
    regions = replace(model, settings={**model.settings, "answer": answer})
    entries = report.pictures(regions, runtime, reference)["legend"]["original and converted"]
    for entry in entries:
        value = order[names.index(entry["label"])]
        assert entry["colour"] == "#{:02x}{:02x}{:02x}".format(*COLOURS[value - 1])
    assert len(entries) > 1


def test_the_headline_is_the_worst_label_that_any_window_has() -> None:
    figures = {"labels": {"a": {"dice": 0.99}, "b": {"dice": 0.91}, "c": {"dice": "in no window"}}}
    assert report.headline(figures) == {
        "name": "agreement", "value": "Dice 0.9100", "note": "worst of 2 labels",
    }  # fmt: skip
    assert report.headline({}) is None


def test_windows_of_one_volume_are_told_apart() -> None:
    model, runtime, reference = segmentation()
    twice = type(reference)(*(part * 2 for part in vars(reference).values()))
    names = [s["file"] for s in report.pictures(model, runtime, twice)["samples"]]
    assert names == ["case_001.nii.gz, window 1 of 2", "case_001.nii.gz, window 2 of 2"]


def test_the_samples_that_differ_most_come_first() -> None:
    _, runtime, reference = segmentation()
    given, want = reference.inputs[0], reference.answers[0]
    samples = [Sample(Path(f"{i}.nii"), given) for i in range(5)]
    differences = [2.0, 9.0, 0.0, 9.0, 4.0]
    left = iter(differences)

    def compared(*_: Arrays) -> dict[str, Any]:
        pixels = np.zeros((8, 8, 3), np.uint8)
        return {"differs": next(left), "note": "", "pictures": [{"pixels": pixels}]}

    five = type(reference)([given] * 7, [want] * 7, samples)
    found = reporting.most_differing("planes", compared, runtime, five)
    assert [s["file"] for s in found["samples"]] == ["1.nii", "3.nii", "4.nii"]
    assert found["of"] == 5


def test_without_samples_there_is_nothing_to_show() -> None:
    model, runtime, reference = segmentation()
    none = type(reference)(reference.inputs, reference.answers, [])
    assert report.pictures(model, runtime, none) == {"none": reporting.NO_SAMPLES}
