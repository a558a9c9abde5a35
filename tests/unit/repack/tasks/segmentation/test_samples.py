"""Windows of the user's volumes for the gate, cut by the handler that will serve the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from torch import nn

from handlers.errors import KitError
from handlers.volumes import preparing, reading
from repack.model import Model
from repack.options import Options
from repack.samples import Sample
from repack.sources import Source
from repack.tasks import TASKS
from repack.tasks.segmentation import samples
from repack.tasks.segmentation.model import INPUT, make


def net(channels: int = 1, patch: tuple[int, ...] = (4, 8, 8), **more: Any) -> Model:
    settings = {
        "framework": "nnunet",
        "channels": [
            {"name": f"c{i}", "normalisation": {"kind": "zscore"}} for i in range(channels)
        ],
        "orientation": None,
        "spacing": None,
        "transpose_forward": [0, 1, 2],
        "crop": None,
        "patch": list(patch),
        "resampling": {},
        "windows": {"overlap": 0.5},
        "answer": {"kind": "argmax"},
        "label_values": [0, 1],
        **more,
    }
    module = (nn.Conv3d if len(patch) == 3 else nn.Conv2d)(channels, 2, 1)
    labels = ("background", "ball")
    path, task = Path("net"), "segmentation"
    return make(Source(module, "nnunet", "n", labels, path, "", task, settings=settings), Options())


def read(folder: Path, model: Model) -> list[Sample]:
    return TASKS["segmentation"].read_samples(folder, model, "--samples")


def scan(path: Path, seed: int = 0, empty: bool = False) -> Path:
    """A 24x16x8 (x, y, z) NIfTI with noise in one corner only."""
    values = np.zeros((24, 16, 8), np.float32)
    if not empty:
        values[:8, :8, :4] = np.random.default_rng(seed).normal(0, 9, (8, 8, 4))
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


def test_the_windows_that_vary_most_are_taken(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii.gz")
    found = read(tmp_path, net())
    assert [s.inputs[INPUT].shape for s in found] == [(1, 1, 4, 8, 8)] * samples.WINDOWS
    spread = [float(s.inputs[INPUT].std()) for s in found]
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > 1
    volume = reading.read((tmp_path / "a.nii.gz").read_bytes(), lambda layout: None)
    data = preparing.prepare(volume, samples.recipe_of(net())).data
    assert np.array_equal(found[0].inputs[INPUT][0], data[:, :4, :8, :8])


def test_channels_are_files_named_as_nnunet_does(tmp_path: Path) -> None:
    for c in (0, 1):
        scan(tmp_path / f"case_{c:04d}.nii.gz", seed=c)
    found = read(tmp_path, net(channels=2))
    best = found[0].inputs[INPUT][0]
    assert best.shape == (2, 4, 8, 8)
    assert not np.allclose(best[0], best[1])
    assert found[0].path.name == "case_0000.nii.gz"


def test_a_2d_net_gets_planes_and_arrays_are_windows(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii")
    np.save(tmp_path / "b.npy", np.ones((1, 8, 8), np.float32))
    found = read(tmp_path, net(patch=(8, 8)))
    assert {s.inputs[INPUT].shape for s in found} == {(1, 1, 8, 8)}
    assert np.array_equal(found[-1].inputs[INPUT], np.ones((1, 1, 8, 8), np.float32))


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"--samples .*: holds no .nii, .nii.gz, .*zip or .npy file"):
        read(tmp_path, net())
    scan(tmp_path / "a.nii.gz")
    with pytest.raises(KitError, match=r"a.nii.gz: 1 values a voxel, expected 2 \(c0, c1\)"):
        read(tmp_path, net(channels=2))
    (tmp_path / "a.nii.gz").write_bytes(b"nothing")
    with pytest.raises(KitError, match=r"a.nii.gz: 7 bytes of an unknown format"):
        read(tmp_path, net())
    (tmp_path / "a.nii.gz").unlink()
    np.save(tmp_path / "b.npy", np.ones((1, 8, 8), np.float32))
    with pytest.raises(KitError, match=r"b.npy: INPUT__0: shape \[1, 8, 8\] came"):
        read(tmp_path, net())


@pytest.mark.parametrize(
    ("channels", "patch", "order"),
    [(1, (4, 8, 6), [0, 1, 2]), (2, (4, 8, 6), [2, 0, 1]), (1, (8, 6), [1, 0, 2])],
)
def test_the_made_up_scan_is_one_that_the_handler_takes(
    tmp_path: Path, channels: int, patch: tuple[int, ...], order: list[int]
) -> None:
    spacing = [3.0, 1.0, 2.0][-len(patch) :]
    given = net(channels, patch, transpose_forward=order, spacing=spacing)
    path = samples.example(given, [], tmp_path)
    volume = reading.read(path.read_bytes(), lambda layout: None)
    assert volume.data.min() >= 0
    assert volume.data.max() <= 255
    data = preparing.prepare(volume, samples.recipe_of(given)).data
    assert data.shape == (channels, *((2,) if len(patch) == 2 else ()), *patch)
