"""The synthetic airways and vessels, and the pieces of the 3-D U-Net's trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from examples.vessels import evaluate, make_samples, plain, train
from examples.vessels.cases import AIRWAY, HELD_OUT_SEED, LABELS, SPACING, TRAIN_SEED, VESSEL, case
from examples.vessels.network import CHANNELS, Net
from examples.vessels.trees import FAR, Tubes, depth, grow
from handlers import windows
from tests.support.loading import load

SHAPE = (32, 64, 64)


def test_a_case_depends_on_its_seed_index_and_shape_alone() -> None:
    first, _, again = case(7, 3, SHAPE), case(7, 4, SHAPE), case(7, 3, SHAPE)
    np.testing.assert_array_equal(first.scan, again.scan)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.scan, case(8, 3, SHAPE).scan)
    used = {TRAIN_SEED, HELD_OUT_SEED, make_samples.SAMPLES_SEED, make_samples.CALIBRATION_SEED}
    assert len(used) == 4


def test_cases_look_like_ct() -> None:
    lumen, blood, lung = [], [], []
    for index in range(4):
        made = case(7, index, (48, 96, 96))
        assert [a.dtype.name for a in (made.scan, made.labels)] == ["int16", "uint8"]
        assert made.scan.shape == made.labels.shape == (48, 96, 96)
        assert -1024 <= made.scan.min() <= made.scan.max() <= 3071
        assert made.spacing == SPACING
        assert set(np.unique(made.labels)) == {0, AIRWAY, VESSEL}
        lumen.append(np.median(made.scan[made.labels == AIRWAY]))
        blood.append(np.median(made.scan[made.labels == VESSEL]))
        lung.append(np.percentile(made.scan[made.labels == 0], 20))
    assert np.mean(lumen) < -900 < np.mean(lung) < -700
    assert np.mean(blood) > 0


def test_depth_of_one_tube_by_hand() -> None:
    tube = Tubes(np.array([[[4.0, 5.0, 2.5], [4.0, 5.0, 7.5]]]), np.array([[2.0, 2.0]]))
    field = depth(tube, (8, 10, 10), (1.0, 1.0, 1.0), margin=1.0)
    assert field[3, 4, 4] == pytest.approx(2 - np.sqrt(0.5), abs=1e-5)  # centre (3.5, 4.5, 4.5)
    assert field[3, 4, 0] == pytest.approx(2 - np.sqrt(0.5 + 4), abs=1e-5)  # beyond the end
    assert field[0, 0, 0] in (FAR, pytest.approx(2 - np.sqrt(3.5**2 + 4.5**2 + 4), abs=1e-5))
    assert field[7, 9, 9] <= -1


def test_trees_get_thinner_and_stay_inside() -> None:
    rng = np.random.default_rng(5)
    start = np.array([50.0, 50.0, 10.0])

    def inside(point: np.ndarray) -> bool:
        return bool((np.abs(point - 50) < 45).all())

    tree = grow(rng, start, np.array([0.0, 0.0, 1.0]), 5.0, 1.0, inside)
    assert len(tree.radii) > 50
    assert tree.radii[0, 0] == 5
    assert (tree.radii[:, 1] < tree.radii[:, 0]).all()
    assert tree.radii.min() >= 0.88  # a branch of 1 mm loses 12 % on its way
    assert (np.abs(tree.ends - 50) < 45).all()
    starts = {tuple(p) for p in tree.ends[1:, 0]}
    assert starts <= {tuple(p) for p in tree.ends[:, 1]}  # every piece begins where one ends
    assert len(tree.wider_than(3.0).radii) < len(tree.radii)


def test_the_network_keeps_the_patch_and_its_affine_norms() -> None:
    net = Net((4, 8, 16)).eval()
    with torch.inference_mode():
        assert net(torch.zeros(2, 1, 8, 16, 12)).shape == (2, 3, 8, 16, 12)
    norms = [m for m in net.modules() if isinstance(m, torch.nn.InstanceNorm3d)]
    assert len(norms) == 10
    assert all(m.affine for m in norms)


def test_windows_begin_where_the_handlers_windows_begin() -> None:
    for side, patch in ((64, 64), (128, 64), (256, 128), (200, 128), (97, 64)):
        assert plain.starts(side, patch) == windows.starts(side, patch, 0.5)


def test_weights_by_hand() -> None:
    weights = plain.weights((16, 25, 21))
    assert weights.shape == (16, 25, 21)
    assert weights[8, 12, 10] == weights.max() == 1
    assert weights[6, 12, 10] == pytest.approx(np.exp(-0.5))  # two voxels are an eighth of 16
    assert weights.min() > 0


def test_segment_puts_windows_together() -> None:
    class Bright(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat((torch.zeros_like(x), x - plain.normalised(torch.tensor(0.0))), 1)

    scan = case(7, 1, SHAPE).scan
    found = plain.segment(Bright(), scan, (16, 32, 32))
    np.testing.assert_array_equal(found, (scan > 0).astype(np.uint8))


def test_loss_prefers_the_truth_and_dice_is_right() -> None:
    labels = torch.from_numpy(case(7, 1, (16, 32, 32)).labels).long()[None]
    right = torch.nn.functional.one_hot(labels, 3).permute(0, 4, 1, 2, 3) * 20.0
    assert train.loss_of(right, labels).item() < 0.01
    assert train.loss_of(right.flip(1), labels).item() > 1
    a = np.array([1, 1, 2, 0], np.uint8)
    assert plain.dice(a, np.array([1, 2, 2, 0], np.uint8), 1) == pytest.approx(2 / 3)
    assert plain.dice(a, a, 5) == 1.0


def test_training_writes_a_small_checkpoint_that_loads_without_pickle(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = case(TRAIN_SEED, 0, (96, 160, 160))
    data = train.Data(*(torch.from_numpy(part)[None] for part in (made.scan, made.labels)))
    x, y = data.batch(2, (16, 32, 32), np.random.default_rng(0))
    assert (x.shape, y.shape) == ((2, 1, 16, 32, 32), (2, 16, 32, 32))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    module = Net((4, 8))
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        loss = train.loss_of(module(x), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    path = tmp_path / "net.pt"
    train.save(module, (4, 8), path)
    again = evaluate.load(path).state_dict()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(again[name], value.half().float())


def test_rate_rises_then_falls() -> None:
    values = [train.rate(x) for x in (0.0, 0.02, train.WARM_UP, 0.5, 1.0)]
    assert values[0] < values[1] < values[2] == pytest.approx(1)
    assert values[2] > values[3] > values[4] == pytest.approx(train.LAST)


def test_samples_are_scans_in_hounsfield_units(tmp_path: Path) -> None:
    make_samples.main(["--out", str(tmp_path / "s"), "--count", "1", "--shape", "32", "64", "48"])
    image: Any = nib.load(tmp_path / "s" / "case00.nii.gz")
    truth = case(make_samples.SAMPLES_SEED, 0, (32, 64, 48))
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, truth.scan)
    assert image.header.get_zooms() == pytest.approx((0.75, 0.75, 1.25))
    windowed = plain.normalised(torch.from_numpy(truth.scan))
    assert windowed.dtype == torch.float32
    assert abs(float(windowed.mean())) < 1.2


def test_the_recorded_figures_hold() -> None:
    recorded = json.loads(evaluate.METRICS.read_text())
    assert recorded["seed"] == HELD_OUT_SEED
    row = recorded["cases"][0]
    assert tuple(row["shape"]) == plain.PATCH
    found = evaluate.evaluate(evaluate.load(), 3)
    for name, values in found.items():
        assert values == pytest.approx(row["dice"][name][:3], abs=0.003)
        assert row["mean_dice"][name] == pytest.approx(np.mean(row["dice"][name]), abs=1e-4)


def test_the_checkpoint_stays_small() -> None:
    assert evaluate.WEIGHTS.stat().st_size <= 3_000_000


def test_the_yaml_says_how_the_network_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(1)
    train.save(Net(), CHANNELS, tmp_path / "net.pt")
    volumes = evaluate.HERE / "volumes.yaml"
    source = load(tmp_path / "net.pt", "examples.vessels.network:Net", volumes=volumes)
    assert source.task == "segmentation"
    assert source.labels == LABELS
    said = source.settings
    assert (tuple(said["patch"]), tuple(said["spacing"])) == (plain.PATCH, SPACING)
    assert said["windows"] == {
        "overlap": 0.5, "gaussian": True, "sigma": plain.SIGMA, "mirror": []
    }  # fmt: skip
    numbers = dict(zip(("lower", "upper"), plain.CLIP, strict=True))
    wanted = {"kind": "ct", **numbers, "mean": plain.MEAN, "std": plain.DEVIATION}
    assert said["channels"] == [{"name": "CT", "normalisation": wanted}]
