"""Normalising, sliding a window over a volume and scoring, in plain PyTorch and NumPy.

What training and ``evaluate.py`` use: no handler and no runtime is in the way.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PATCH = (64, 128, 128)
"""Voxels of the shipped model's window, z y x: 80 x 96 x 96 mm."""
CLIP = (-1024.0, 400.0)
"""Hounsfield units beyond which nothing of interest lies; scans are clipped to it."""
MEAN, DEVIATION = -600.0, 400.0
"""Hounsfield units; roughly those of clipped synthetic scans."""
SIGMA = 0.125
"""Of the window's Gaussian weights, as a share of its side (nnU-Net's choice)."""


def normalised(hounsfield: Tensor) -> Tensor:
    """Hounsfield units clipped and scaled to about zero mean and unit deviation, float32."""
    return (hounsfield.float().clamp(*CLIP) - MEAN) / DEVIATION


def starts(side: int, patch: int) -> list[int]:
    """Where windows of ``patch`` begin along a side at least as long: evenly, half overlapping."""
    steps = int(np.ceil((side - patch) / (patch / 2))) + 1
    return [round(i * (side - patch) / max(steps - 1, 1)) for i in range(steps)]


def weights(patch: Sequence[int]) -> Tensor:
    """Gaussian window weights ``float32 [D, H, W]``: 1 in the middle voxel, nowhere 0."""
    total = torch.ones(1)
    for side in patch:
        away = (torch.arange(side) - side // 2) / (side * SIGMA)
        total = total[..., None] * torch.exp(-0.5 * away**2)
    return total[0].clamp(min=torch.finfo(torch.float32).tiny)


@torch.inference_mode()
def segment(
    module: nn.Module, scan: NDArray[np.int16], patch: Sequence[int] = PATCH
) -> NDArray[np.uint8]:
    """The label of every voxel of a scan on the model's own grid.

    Args:
        module: logits of a normalised patch, as ``network.Net``; on any device.
        scan: ``int16 [Z, Y, X]`` Hounsfield units, no side shorter than the patch's.
        patch: the window, z y x.

    Returns:
        ``uint8 [Z, Y, X]``, the label whose weighted mean logit is highest.
    """
    device = next(module.parameters()).device
    x = normalised(torch.from_numpy(scan).to(device))
    weight = weights(patch).to(device)
    total: Tensor | None = None
    corners = [starts(n, p) for n, p in zip(scan.shape, patch, strict=True)]
    for corner in itertools.product(*corners):
        box = tuple(slice(a, a + p) for a, p in zip(corner, patch, strict=True))
        logits = module(x[box][None, None])[0].float()
        if total is None:
            total = torch.zeros((len(logits), *scan.shape), device=device)
        where = (slice(None), *box)
        total[where] += logits * weight
    assert total is not None  # noqa: S101 - every volume has a first window
    return np.asarray(total.argmax(0).byte().cpu().numpy())


def dice(found: NDArray[np.uint8], truth: NDArray[np.uint8], label: int) -> float:
    """Dice's coefficient of one label: twice the shared voxels over both counts; 1 without any."""
    mine, real = found == label, truth == label
    both = int(mine.sum()) + int(real.sum())
    return 2 * int((mine & real).sum()) / both if both else 1.0
