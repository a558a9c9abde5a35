"""The detector's loss: which anchor of which cell answers for which box, and how wrong it is."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from repack.networks.yolov5 import STRIDES

RATIO = 3.0
"""A box is an anchor's business when neither side differs from the anchor's by more than this."""
BALANCE = (4.0, 1.0, 0.4)
"""Weight of each scale's objectness: the fine grid has sixteen times the coarse one's cells."""
BOX, OBJECTNESS, CLASS = 0.05, 1.0, 0.1


def complete_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of paired boxes, plain and with the complete-IoU penalties.

    The penalties are those of Zheng et al., 2020: the distance of the centres over the diagonal of
    the enclosing box, and the difference of the aspect ratios.

    Args:
        a, b: ``float [K, 4]``, centre x and y, width and height.

    Returns:
        ``float [K]`` each: IoU in 0..1, and IoU less the penalties.
    """
    a1, a2 = a[:, :2] - a[:, 2:] / 2, a[:, :2] + a[:, 2:] / 2
    b1, b2 = b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2
    overlap = (torch.minimum(a2, b2) - torch.maximum(a1, b1)).clamp(min=0).prod(1)
    union = a[:, 2:].prod(1) + b[:, 2:].prod(1) - overlap + 1e-7
    iou = overlap / union
    enclosing = (torch.maximum(a2, b2) - torch.minimum(a1, b1)).square().sum(1) + 1e-7
    distance = (a[:, :2] - b[:, :2]).square().sum(1) / enclosing
    angles = torch.atan(a[:, 2] / (a[:, 3] + 1e-7)) - torch.atan(b[:, 2] / (b[:, 3] + 1e-7))
    aspect = (4 / math.pi**2) * angles.square()
    with torch.no_grad():
        share = aspect / (1 - iou + aspect + 1e-7)
    return iou, iou - distance - share * aspect


def assign(boxes: Tensor, anchors: Tensor, width: int, height: int) -> tuple[Tensor, ...]:
    """Pairs of boxes with the anchors and cells that answer for them, on one scale.

    A box goes to every anchor within ``RATIO`` of its sides, in the cell that holds its centre and
    in the nearest neighbour on the left or right and above or below: the decoding reaches half a
    cell beyond each side.

    Args:
        boxes: ``float [K, 4]`` centre x and y, width and height, in cells.
        anchors: ``float [A, 2]``, in cells.
        width, height: cells of the grid.

    Returns:
        int64 ``[P]`` each: index of the box, of the anchor, row and column.
    """
    ratio = boxes[:, None, 2:] / anchors
    fits = torch.maximum(ratio, 1 / ratio).amax(2) < RATIO
    which, anchor = fits.nonzero(as_tuple=True)
    centre = boxes[which, :2]
    cell = centre.floor()
    step = torch.where(centre - cell < 0.5, -1.0, 1.0)
    still = torch.zeros_like(step)
    beside = torch.stack((step[:, 0], still[:, 1]), 1)
    above = torch.stack((still[:, 0], step[:, 1]), 1)
    cells = torch.cat((cell, cell + beside, cell + above)).long()
    which, anchor = which.repeat(3), anchor.repeat(3)
    column, row = cells[:, 0], cells[:, 1]
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return which[inside], anchor[inside], row[inside], column[inside]


def detection_loss(raw: list[Tensor], targets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of one batch.

    Args:
        raw: the network's training output: per scale ``[N, A, H, W, 5 + classes]``.
        targets: ``float [N, M, 5]``, class (-1 in unused rows) and x1, y1, x2, y2 in pixels.
        anchors: ``float [3, A, 2]`` in pixels.

    Returns:
        The loss, a scalar with its gradient, and its parts (box, objectness, class), detached.
    """
    picture, row_of = (targets[..., 0] >= 0).nonzero(as_tuple=True)
    rows = targets[picture, row_of]
    kinds = rows[:, 0].long()
    pixels = torch.cat(((rows[:, 1:3] + rows[:, 3:5]) / 2, rows[:, 3:5] - rows[:, 1:3]), 1)
    parts = [raw[0].new_zeros(3, dtype=torch.float32)]
    for level, (maps, stride) in enumerate(zip(raw, STRIDES, strict=True)):
        height, width = maps.shape[2:4]
        boxes, sizes = pixels / stride, anchors[level] / stride
        which, anchor, row, column = assign(boxes, sizes, width, height)
        wanted = torch.zeros(maps.shape[:4], device=maps.device)
        box_loss = class_loss = wanted.new_zeros(())
        if len(which):
            picked = maps[picture[which], anchor, row, column].float()
            cell = torch.stack((column, row), 1)
            centre = picked[:, :2].sigmoid() * 2 - 0.5 + cell
            size = (picked[:, 2:4].sigmoid() * 2).square() * sizes[anchor]
            iou, complete = complete_iou(torch.cat((centre, size), 1), boxes[which])
            box_loss = (1 - complete).mean()
            kind = F.one_hot(kinds[which], picked.shape[1] - 5).float()
            class_loss = F.binary_cross_entropy_with_logits(picked[:, 5:], kind)
            place = ((picture[which] * maps.shape[1] + anchor) * height + row) * width + column
            wanted.view(-1).scatter_reduce_(0, place, iou.detach().clamp(0, 1), "amax")
        objectness = F.binary_cross_entropy_with_logits(maps[..., 4].float(), wanted)
        parts.append(
            torch.stack(
                (BOX * box_loss, OBJECTNESS * BALANCE[level] * objectness, CLASS * class_loss)
            )
        )
    total = torch.stack(parts).sum(0)
    return total.sum(), total.detach()
