"""qpstest on volumes: what it asks, when a mask is a right answer, and the sheet it draws."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.errors import KitError
from qpstest import inputs, masks, vis_masks
from qpstest.http_api import HttpSession, HttpTarget
from qpstest.options import parse
from tests.support import volumes

SHAPE = (12, 20, 16)


def scan_and_mask() -> tuple[bytes, bytes, np.ndarray]:
    scan = volumes.scan(SHAPE)
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:8, 5:12, 4:9] = 1
    mask[8:10, 5:12, 4:9] = 2
    return volumes.nifti(scan), volumes.nifti(mask), mask


def test_volumes_have_defaults_of_their_own(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.NRRD", "notes.txt", ".hidden.nii"):
        (tmp_path / name).write_bytes(b"x")
    o = parse(["--input", str(tmp_path)])
    assert o.volumes
    assert (o.concurrency, o.requests, o.warmup) == ((1, 4), 8, 1)
    assert (o.accept, o.timeout) == ("application/gzip", 600.0)
    assert [name for name, _ in inputs.read(tmp_path)] == ["a.nii.gz", "b.NRRD"]
    o = parse(["--input", str(tmp_path), "--requests", "3", "--accept", "application/json"])
    assert (o.requests, o.accept) == (3, "application/json")
    assert not parse([]).volumes
    assert parse([]).requests == 200


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd", "series.zip"])
def test_names_of_volumes(name: str) -> None:
    assert masks.is_volume(Path(name))
    assert not masks.is_volume(Path(f"{name}.jpg"))


def test_batches_are_a_sorted_list() -> None:
    assert parse(["--batch", "4,1"]).batches == (1, 4)
    assert parse([]).batches == ()


def test_a_right_mask_lies_on_the_grid_of_its_scan() -> None:
    scan, mask, voxels = scan_and_mask()
    assert masks.what_is_wrong(mask, scan) is None
    moved = volumes.AFFINE.copy()
    moved[0, 3] += 1
    elsewhere = masks.what_is_wrong(volumes.nifti(voxels, moved), scan)
    assert elsewhere == "a mask of 16x20x12 voxels on another grid than the scan's 16x20x12"
    smaller = masks.what_is_wrong(volumes.nifti(voxels[1:]), scan)
    assert smaller == "a mask of 16x20x11 voxels on another grid than the scan's 16x20x12"
    assert "no gzip file" in str(masks.what_is_wrong(mask[:-9], scan))
    assert "no gzip file" in str(masks.what_is_wrong(b"{}", scan))
    assert "no NIfTI mask" in str(masks.what_is_wrong(gzip.compress(b"{}"), scan))


def test_the_http_session_counts_a_wrong_mask() -> None:
    scan, mask, voxels = scan_and_mask()
    session = HttpSession(HttpTarget("http://127.0.0.1:1", "m", [scan], 1.0, None, masks.GZIP))
    head = b"http/1.1 200\r\ncontent-type: application/gzip"
    assert session._what_is_wrong(head, mask, scan) is None
    assert "another grid" in str(session._what_is_wrong(head, volumes.nifti(voxels[1:]), scan))
    json = head.replace(b"gzip", b"json")
    wrong = session._what_is_wrong(json, mask, scan)
    assert wrong == "application/gzip was asked for, application/json came"


def test_dice_by_hand() -> None:
    a, b = np.array([1, 1, 0, 2]), np.array([1, 0, 0, 2])
    assert masks.dice(a, b, 1) == pytest.approx(2 / 3)
    assert masks.dice(a, b, 2) == masks.dice(a, b, 3) == 1.0


def test_the_sheet_shows_each_mode_and_what_differs(tmp_path: Path) -> None:
    scan, mask, voxels = scan_and_mask()
    changed = voxels.copy()
    changed[3, 5, 4] = 0
    sheet = tmp_path / "vis.png"
    answers = {1: [mask], 2: [volumes.nifti(changed)]}
    lines = vis_masks.side_by_side([("case.nii.gz", scan)], answers, sheet)
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
        vis_masks.side_by_side([("a.nii", scan)], {2: [b"{}"]}, tmp_path / "vis.png")
