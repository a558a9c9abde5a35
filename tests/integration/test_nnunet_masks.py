"""From the real package's checkpoint to its own predictor's mask, through the archive's handler."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from handlers.context import LocalContext
from handlers.entry import Entry
from handlers.passport import Passport
from repack import archive
from tests.parity.compare_segmentation import dice
from tests.support import made
from tests.support.nnunet import DATA, unpacked

TIE = 0.01
"""A voxel may differ where the package's own two best labels are this close in probability, or
near an edge where two faces of the scan meet. The package sums logits in 16 bits: near-ties of the
random network's mosaic flip, and at edges, where one window with a weight of 1e-7 decides, the sum
has hardly a digit left. Of the trained networks of tests/parity a voxel or two of a case differ."""


def explained(other: NDArray[np.bool_], margin: NDArray[np.float16]) -> bool:
    """Whether the package's rounding accounts for every voxel of ``other`` ``[z, y, x]``."""
    near = np.zeros(other.shape, int)
    for axis, side in enumerate(other.shape):
        place = np.arange(side)
        close = np.minimum(place, side - 1 - place) < 4
        near += np.expand_dims(close, [a for a in range(3) if a != axis])
    return bool(other.mean() < 0.002 and ((margin < TIE) | (near >= 2))[other].all())


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


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("folds", [pytest.param("0", marks=pytest.mark.slow), "0,1"])
def test_masks_equal_those_of_the_real_predictor(results: Path, tmp_path: Path, folds: str) -> None:
    body, reference = scan()
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "scan.nii.gz").write_bytes(body)
    flags = ["--backend", "onnxruntime", "--precision", "f32", "--name", "tiny"]
    flags += ["--weights", str(results), "--folds", folds, "--model-store", str(tmp_path)]
    done = made.repack(*flags, "--samples", tmp_path / "samples")
    assert done.returncode == 0, done.stderr
    record = archive.unpack(tmp_path / "tiny.mar", tmp_path / "out")
    _check(record, folds)
    assert str(results) not in record.to_json()
    name = folds.replace(",", "")
    expected = reference[f"mask{name}"].astype(int)
    assert len(np.unique(expected)) == 3
    for artefact in ("accelerated", "portable"):
        found = answered(tmp_path / "out", body, artefact)
        assert explained(found != expected, reference[f"margin{name}"])


def _check(record: Passport, folds: str) -> None:
    assert (record.task, record.labels) == ("segmentation", ("background", "ball", "rod"))
    assert record.handler == "handlers.segmentation:SegmentationHandler"
    assert record.source["family"] == "nnunet"
    which = ", ".join(f"fold_{fold}" for fold in folds.split(","))
    assert record.source["network"] == f"PlainConvUNet 3d_fullres, {which}"
    gate = record.gate["accelerated"]
    assert gate["inputs"] == {"random": 3, "samples": 4}
    assert set(gate["task"]["labels"]) == {"ball", "rod"}


def test_a_moved_mask_would_be_noticed() -> None:
    _, reference = scan()
    expected = reference["mask0"].astype(int)
    for other in (np.roll(expected, 1, 2) != expected, expected == 1):
        assert not explained(other, reference["margin0"])
    one = np.zeros(expected.shape, bool)
    one[5, 20, 20] = True
    assert explained(one, np.zeros(expected.shape, np.float16))
    assert not explained(one, np.full(expected.shape, 0.5, np.float16))
    assert dice(np.zeros_like(expected), expected) == {1: 0.0, 2: 0.0}
