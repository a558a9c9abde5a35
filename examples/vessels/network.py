"""The shipped 3-D U-Net, in the manner of nnU-Net's plain U-Net.

Two convolutions a level, instance norm with learnt scale and offset, leaky ReLU, halved by a
strided convolution and doubled by a transposed one; see Isensee et al., Nature Methods 18 (2021).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

CHANNELS = (16, 32, 64, 128)
"""Features per level of the shipped model, full resolution first."""


def _twice(before: int, after: int, stride: int) -> nn.Sequential:
    """Convolution, norm and leaky ReLU, twice; the first convolution has the stride."""
    layers: list[nn.Module] = []
    for channels, step in ((before, stride), (after, 1)):
        layers += [
            nn.Conv3d(channels, after, 3, step, 1),
            nn.InstanceNorm3d(after, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)


class Net(nn.Module):
    """A U-Net from one channel to one logit per label.

    ``forward`` takes ``float32 [N, 1, D, H, W]``, normalised, its sides multiples of 2 to the
    power of the levels less one (8 for the shipped model), and returns logits
    ``float32 [N, labels, D, H, W]``.

    Args:
        channels: features per level, full resolution first.
        labels: how many, with the background.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS, labels: int = 3) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(channels))
        self.down = nn.ModuleList([_twice(1, channels[0], 1)])
        self.down.extend(_twice(above, below, 2) for above, below in pairs)
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(below, above, 2, 2) for above, below in reversed(pairs)
        )
        self.join = nn.ModuleList(_twice(2 * above, above, 1) for above, _ in reversed(pairs))
        self.head = nn.Conv3d(channels[0], labels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of patches."""
        kept = []
        for level in self.down:
            x = level(x)
            kept.append(x)
        kept.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat((kept.pop(), up(x)), 1))
        logits: Tensor = self.head(x)
        return logits
