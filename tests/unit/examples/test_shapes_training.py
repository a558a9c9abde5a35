"""The trainer's loss, assignment, augmentation and its own average precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from examples.shapes import progress, train
from examples.shapes.loss import assign, complete_iou, detection_loss
from examples.shapes.scenes import CLASSES, scene
from repack.networks.yolov5 import STRIDES, YOLOv5
from repack.tasks.detection.metrics import mean_average_precision

ANCHORS = np.arange(1, 10, dtype=np.float32).repeat(2).reshape(3, 3, 2) * 20


def test_complete_iou_by_hand() -> None:
    box = torch.tensor([[50.0, 50.0, 40.0, 20.0]])
    iou, complete = complete_iou(box, box)
    assert iou.item() == pytest.approx(1)
    assert complete.item() == pytest.approx(1)
    # 10 px to the side: 30 x 20 shared of 1000; centres 10 apart, enclosing box 50 x 20.
    iou, complete = complete_iou(box, box + torch.tensor([10.0, 0, 0, 0]))
    assert iou.item() == pytest.approx(0.6)
    assert complete.item() == pytest.approx(0.6 - 100 / 2900)


def test_a_box_goes_to_its_cell_and_two_neighbours() -> None:
    boxes = torch.tensor([[3.3, 4.8, 2.0, 2.0]])
    anchors = torch.tensor([[2.0, 2.0], [7.0, 2.0], [1.0, 1.0]])  # the second: ratio 3.5, too wide
    which, anchor, row, column = assign(boxes, anchors, 10, 10)
    assert which.tolist() == [0] * 6
    got = set(zip(anchor.tolist(), row.tolist(), column.tolist(), strict=True))
    assert got == {(a, r, c) for a in (0, 2) for r, c in ((4, 3), (4, 2), (5, 3))}


def test_cells_outside_the_grid_are_left_out() -> None:
    _, _, row, column = assign(torch.tensor([[0.2, 9.7, 2.0, 2.0]]), torch.ones(1, 2), 10, 10)
    assert list(zip(row.tolist(), column.tolist(), strict=True)) == [(9, 0)]


def test_loss_is_finite_without_any_box() -> None:
    raw = [torch.zeros(2, 3, 64 // s, 64 // s, 11, requires_grad=True) for s in STRIDES]
    loss, parts = detection_loss(raw, torch.full((2, 4, 5), -1.0), torch.from_numpy(ANCHORS))
    torch.autograd.backward(loss)
    assert torch.isfinite(loss)
    assert parts[0] == parts[2] == 0
    assert all(maps.grad is not None and maps.grad.isfinite().all() for maps in raw)


def _small(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, rows = [], torch.full((count, 16, 5), -1.0)
    for i in range(count):
        picture, boxes, classes = scene(3, i + 20, 128, 128)
        rows[i, : len(boxes), 0] = torch.from_numpy(classes).float()
        rows[i, : len(boxes), 1:] = torch.from_numpy(boxes)
        pictures.append(torch.from_numpy(picture.transpose(2, 0, 1).copy()))
    return torch.stack(pictures), rows


def test_training_makes_the_loss_fall() -> None:
    torch.manual_seed(0)
    pictures, targets = _small(2)
    module = train.build(ANCHORS).train()
    optimizer = train.optimizer_for(module, 2e-3, fused=False)
    losses = []
    for _ in range(14):
        loss, _ = detection_loss(module(pictures.float() / 255), targets, torch.from_numpy(ANCHORS))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


def test_augmented_boxes_follow_their_pixels() -> None:
    torch.manual_seed(1)
    pictures = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    pictures[:, :, 5:9, 2:12] = 200
    targets = torch.full((64, 2, 5), -1.0)
    targets[:, 0] = torch.tensor([3.0, 2, 5, 12, 9])
    moved, rows = train.augment(pictures, targets)
    assert len({tuple(row) for row in rows[:, 0].tolist()}) == 8
    for picture, row in zip(moved, rows, strict=True):
        ys, xs = np.nonzero(picture.mean(0).numpy() > 0.3)
        box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert row[0].tolist() == [3, *box]
    assert (rows[:, 1, 0] == -1).all()


def test_a_saved_checkpoint_is_small_and_loads_without_pickle(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = train.build(ANCHORS)
    path = tmp_path / "shapes.pt"
    train.save(module, ANCHORS, path)
    assert path.stat().st_size <= 4_000_000
    assert [p.name for p in tmp_path.iterdir()] == ["shapes.pt"]
    stored = torch.load(path, weights_only=True)
    assert stored["names"] == list(CLASSES)
    np.testing.assert_array_equal(stored["anchors"].numpy(), ANCHORS)
    fresh = YOLOv5(stored["network"], len(CLASSES))
    fresh.load_state_dict(stored["state_dict"], strict=True)
    strides = torch.tensor(STRIDES).view(3, 1, 1)
    cells = fresh.state_dict()["model.24.anchors"]
    np.testing.assert_array_equal((cells * strides).numpy(), ANCHORS)


def test_rate_rises_then_falls() -> None:
    values = [train.rate(x) for x in (0.0, 0.02, train.WARM_UP, 0.5, 1.0)]
    assert values[0] < values[1] < values[2] == pytest.approx(1)
    assert values[2] > values[3] > values[4] == pytest.approx(train.LAST)


def test_suppression_keeps_classes_apart() -> None:
    rows = torch.zeros(1, 4, 7)
    rows[0, :, :4] = torch.tensor([50.0, 50, 20, 20])
    rows[0, :, 4] = torch.tensor([0.9, 0.8, 0.7, 0.0])
    rows[0, 0, 5] = rows[0, 1, 5] = rows[0, 2, 6] = 1
    found = progress.suppress(rows)[0]
    assert found[found[:, 4] > 0][:, 4:].tolist() == [
        [pytest.approx(0.9), 0],
        [pytest.approx(0.7), 1],
    ]
    assert found[0, :4].tolist() == [40, 40, 60, 60]


def test_own_average_precision_agrees_with_pycocotools() -> None:
    random = np.random.default_rng(4)
    truth = np.full((30, 6, 5), -1, np.float32)
    found = np.zeros((30, 12, 6), np.float32)
    for i in range(30):
        real = int(random.integers(1, 6))
        corners = random.uniform(0, 400, (real, 2))
        truth[i, :real, 0] = random.integers(0, 3, real)
        truth[i, :real, 1:] = np.concatenate(
            (corners, corners + random.uniform(20, 99, (real, 2))), 1
        )
        found[i, :real, :4] = truth[i, :real, 1:] + random.normal(0, 5, (real, 4))
        found[i, :real, 5] = truth[i, :real, 0]
        found[i, real:, :4] = (300, 300, 340, 350)
        found[i, real:, 5] = random.integers(0, 3, 12 - real)
        found[i, :, 4] = random.uniform(0.1, 1, 12)
    order = [np.argsort(-rows[:, 4]) for rows in found]
    found = np.stack([rows[o] for rows, o in zip(found, order, strict=True)])
    mine = progress.average_precision(found, truth, ("a", "b", "c"))["all"]
    theirs = mean_average_precision(
        list(found), [rows[rows[:, 0] >= 0][:, [1, 2, 3, 4, 0]] for rows in truth]
    )
    assert mine == pytest.approx(theirs[:2], abs=1e-6)
