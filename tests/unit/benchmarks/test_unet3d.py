"""The GPU benchmark's scan stays what it was, and its network can learn the labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import unet3d
from benchmarks.unet3d import (
    CT,
    LABELS,
    MARGIN,
    SHAPE,
    TUBES,
    Net,
    case,
    dice,
    draw,
    loss_of,
    normalised,
    scan,
    train,
)

ORGAN, VESSEL = LABELS.index("organ"), LABELS.index("vessel")
BRIGHT = 190  # HU, between the densest organ and the faintest vessel, each five spreads away
PATCH = (32, 64, 64)
SHA256 = "6af4b5085360656fbc78dbdb2acc4cf6e77d005a4c3ed91f21c91a528df38f90"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_scan_is_the_one_measured_before_and_labelled_where_its_tubes_are() -> None:
    voxels, labels = scan((3, *SHAPE[1:]))
    assert voxels.dtype == np.int16
    assert hashlib.sha256(voxels.astype("<i2").tobytes()).hexdigest() == SHA256
    assert labels.dtype == np.uint8
    assert np.array_equal(labels == VESSEL, voxels > BRIGHT)
    assert voxels[labels == ORGAN].mean() == pytest.approx(110, abs=1)
    for tube in TUBES:
        row, column = int(tube.y), int(tube.x)
        assert (labels[0, row, column - 20 : column + 20] == tube.label).all()
        assert voxels[0, row, column - 20 : column + 20].mean() == pytest.approx(tube.hu, abs=10)
    assert not labels[voxels < -30].any()


def test_a_window_of_a_volume_is_its_part_but_for_noise() -> None:
    whole, part = scan((4, *SHAPE[1:])), scan((2, 100, 120), (2, 180, 190))
    place = np.s_[2:4, 180:280, 190:310]
    assert np.array_equal(part[1], whole[1][place])
    assert np.abs(part[0] - whole[0][place]).max() < 12 * 10


def test_training_cases_differ_and_their_labels_are_mirrored_with_them() -> None:
    shape = [size + MARGIN for size in PATCH]
    made = [case(seed, shape) for seed in range(1, 7)]
    assert len({voxels.tobytes() for voxels, _ in made}) == len(made)
    assert {ORGAN, VESSEL} <= set(np.unique([labels for _, labels in made]))
    random = np.random.default_rng(0)
    for voxels, labels in made:
        assert np.array_equal(labels == VESSEL, voxels > BRIGHT)
        x, wanted = draw(torch.from_numpy(voxels), torch.from_numpy(labels), PATCH, random)
        assert x.shape == wanted.shape == PATCH
        assert torch.equal(wanted == VESSEL, x > BRIGHT)


def test_a_small_network_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))  # a clock that counts steps, so that a busy machine learns as much
    monkeypatch.setattr(unet3d, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    monkeypatch.setattr(unet3d, "RATE", 1e-2)
    torch.manual_seed(0)
    net = Net((8, 16, 32))
    voxels, labels = scan((8, 64, 64), (0, 200, 200))
    x, wanted = normalised(torch.from_numpy(voxels))[None, None], torch.from_numpy(labels)[None]
    with torch.no_grad():
        before = float(loss_of(net(x), wanted.long()))
    losses = train(net, 20, (8, 64, 64), cases=1, batch=2)
    assert len(losses) == 18
    assert np.isfinite(losses).all()
    assert not net.training
    with torch.no_grad():
        after = float(loss_of(net.cpu()(x), wanted.long()))
    assert after < 0.85 * before


class ByDensity(Net):
    """Labels by HU alone: the organ's are unsure, the vessel's are not."""

    def forward(self, x: Tensor) -> Tensor:
        hu = x * CT["std"] + CT["mean"]
        return torch.cat([hu < 75, (hu > 75) & (hu < BRIGHT), hu > BRIGHT], 1).float()


def test_dice_by_hand() -> None:
    voxels, labels = scan((32, *SHAPE[1:]))
    found = dice(ByDensity((4, 8)), voxels, labels, (16, 160, 112))
    assert list(found) == ["organ", "vessel"]
    assert found["vessel"] == 1
    assert 0.95 < found["organ"] < 1


def test_time_that_is_up_leaves_one_step() -> None:
    assert len(train(Net((4, 8)), 0, (8, 32, 32), cases=1)) == 1
