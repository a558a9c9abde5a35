"""From the real package's checkpoint to its own predictor's mask, through the archive's handler."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from handlers.context import LocalContext
from handlers.entry import Entry
from handlers.passport import Passport
from repack import archive
from tests.faults import made
from tests.parity.compare_segmentation import dice
from tests.unit.nnunet_support import DATA, unpacked


def scan() -> tuple[bytes, dict[str, Any]]:
    """The reference's scan as NIfTI, and the reference."""
    with np.load(DATA / "nnunet_tiny.npz") as data:
        reference = dict(data)
    spacing = reference["spacing"][::-1]
    image = nibabel.Nifti1Image(reference["scan"][0].transpose(2, 1, 0), np.diag([*spacing, 1.0]))
    return gzip.compress(image.to_bytes()), reference


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("nnunet"))


def answered(folder: Path, body: bytes, artefact: str = "accelerated") -> Any:
    """The mask's voxels ``[z, y, x]``."""
    context = LocalContext(folder, artefact)
    entry = Entry()
    entry.initialize(context)
    (answer,) = entry.handle([{"body": body}], context)
    assert context.statuses == [200], answer[:300]
    image: Any = nibabel.Nifti1Image.from_stream(io.BytesIO(gzip.decompress(answer)))
    return np.asarray(image.dataobj).transpose(2, 1, 0).astype(int)


@pytest.mark.parametrize("folds", ["0", "1", "0,1"])
def test_masks_equal_those_of_the_real_predictor(results: Path, tmp_path: Path, folds: str) -> None:
    body, reference = scan()
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "scan.nii.gz").write_bytes(body)
    flags = ["--backend", "onnxruntime", "--precision", "f32", "--name", "tiny"]
    flags += ["--weights", str(results), "--folds", folds, "--model-store", str(tmp_path)]
    done = made.repack(*flags, "--samples", tmp_path / "samples")
    assert done.returncode == 0, done.stderr
    record = archive.unpack(tmp_path / "tiny.mar", tmp_path / "out")
    gate = record.gate["accelerated"]
    assert gate["inputs"] == {"random": 3, "samples": 4}
    assert set(gate["task"]["labels"]) == {"ball", "rod"}
    expected = reference[f"mask{folds.replace(',', '')}"].astype(int)
    assert len(np.unique(expected)) == 3
    for artefact in ("accelerated", "portable"):
        found = dice(answered(tmp_path / "out", body, artefact), expected)
        assert min(found.values()) >= 0.999, found


def test_a_moved_mask_would_be_noticed() -> None:
    _, reference = scan()
    expected = reference["mask0"].astype(int)
    assert min(dice(np.roll(expected, 1, 2), expected).values()) < 0.99
    assert dice(np.zeros_like(expected), expected) == {1: 0.0, 2: 0.0}


def test_the_passport_says_where_it_came_from(results: Path, tmp_path: Path) -> None:
    flags = ["--backend", "torchscript", "--weights", str(results), "--folds", "1"]
    done = made.repack(*flags, "--name", "tiny", "--model-store", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: no --samples" in done.stderr
    record: Passport = archive.unpack(tmp_path / "tiny.mar", tmp_path / "out")
    assert (record.task, record.labels) == ("segmentation", ("background", "ball", "rod"))
    assert record.handler == "handlers.segmentation:SegmentationHandler"
    assert record.source["family"] == "nnunet"
    assert record.source["network"] == "PlainConvUNet 3d_fullres, fold_1"
    assert str(results) not in record.to_json()
    assert record.inputs[0].layout == "NCDHW"
