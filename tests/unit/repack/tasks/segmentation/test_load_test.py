"""The load tester on volumes: when a mask is a right answer, and the sheet it draws."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.errors import KitError
from repack.tasks.segmentation import load_test as masks
from repack.tasks.segmentation.load_test import SegmentationLoadTest
from tests.support import volumes

HOOKS = SegmentationLoadTest()

SHAPE = (12, 20, 16)


def scan_and_mask() -> tuple[bytes, bytes, np.ndarray]:
    scan = volumes.scan(SHAPE)
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:8, 5:12, 4:9] = 1
    mask[8:10, 5:12, 4:9] = 2
    return volumes.nifti(scan), volumes.nifti(mask), mask


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd", "series.zip"])
def test_names_of_volumes(name: str) -> None:
    assert HOOKS.takes(Path(name))
    assert not HOOKS.takes(Path(f"{name}.jpg"))


def test_a_right_mask_lies_on_the_grid_of_its_scan() -> None:
    scan, mask, voxels = scan_and_mask()
    assert masks.what_is_wrong_with_mask(mask, scan) is None
    moved = volumes.AFFINE.copy()
    moved[0, 3] += 1
    elsewhere = masks.what_is_wrong_with_mask(volumes.nifti(voxels, moved), scan)
    assert elsewhere == "a mask of 16x20x12 voxels on another grid than the scan's 16x20x12"
    smaller = masks.what_is_wrong_with_mask(volumes.nifti(voxels[1:]), scan)
    assert smaller == "a mask of 16x20x11 voxels on another grid than the scan's 16x20x12"
    assert "no gzip file" in str(masks.what_is_wrong_with_mask(mask[:-9], scan))
    assert "no gzip file" in str(masks.what_is_wrong_with_mask(b"{}", scan))
    assert "no NIfTI mask" in str(masks.what_is_wrong_with_mask(gzip.compress(b"{}"), scan))


def test_a_file_that_is_no_volume_is_named() -> None:
    scan, _, _ = scan_and_mask()
    assert HOOKS.what_is_wrong_with_input(scan) is None
    assert HOOKS.what_is_wrong_with_input(b"x") == "no volume that the kit can read"


def test_only_the_asked_media_type_is_looked_into() -> None:
    scan, mask, _ = scan_and_mask()
    assert HOOKS.what_is_wrong(masks.GZIP, mask, scan) is None
    assert "no gzip file" in str(HOOKS.what_is_wrong(masks.GZIP, b"{}", scan))
    assert HOOKS.what_is_wrong("application/json", b"{}", scan) is None
    assert "not JSON" in str(HOOKS.what_is_wrong("application/json", mask, scan))


def test_dice_by_hand() -> None:
    a, b = np.array([1, 1, 0, 2]), np.array([1, 0, 0, 2])
    assert masks.dice(a, b, 1) == pytest.approx(2 / 3)
    assert masks.dice(a, b, 2) == masks.dice(a, b, 3) == 1.0


def test_the_sheet_shows_each_mode_and_what_differs(tmp_path: Path) -> None:
    scan, mask, voxels = scan_and_mask()
    changed = voxels.copy()
    changed[3, 5, 4] = 0
    sheet = tmp_path / "vis.png"
    answers = {"1 portable": [mask], "2 accelerated": [volumes.nifti(changed)]}
    lines = HOOKS.side_by_side([("case.nii.gz", scan)], answers, sheet)
    expected = 2 * 174 / (175 + 174)
    assert lines[0] == (
        f"1 portable and 2 accelerated: Dice label 1 {expected:.4f}, label 2 1.0000; "
        "1 of 3840 voxels differ"
    )
    with Image.open(sheet) as picture:
        colours = {c for _, c in picture.convert("RGB").getcolors(1 << 24) or ()}
        assert picture.width > 1300
    assert any(r > 150 and b > 150 and g < 120 for r, g, b in colours)  # magenta: the one voxel


def test_an_answer_that_is_no_mask_is_one_line(tmp_path: Path) -> None:
    scan, _, _ = scan_and_mask()
    with pytest.raises(KitError, match="2 accelerated answered none"):
        HOOKS.side_by_side([("a.nii", scan)], {"2 accelerated": [b"{}"]}, tmp_path / "vis.png")
