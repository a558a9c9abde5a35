"""The head of YOLO's classifiers, under the names that published checkpoints have."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from repack.networks.blocks import Conv

HIDDEN = 1280
"""Channels before the classes, in every size."""


class Classify(nn.Module):
    """A map ``[N, C, H, W]`` to the classes' probabilities ``[N, classes]``, or to their logits
    where ``softmax`` is not set."""

    def __init__(self, classes: int, c_in: int, softmax: bool = True):
        super().__init__()
        self.conv = Conv(c_in, HIDDEN)
        self.linear = nn.Linear(HIDDEN, classes)
        self.softmax = softmax

    def forward(self, x: Tensor) -> Tensor:
        found = cast(Tensor, self.linear(self.conv(x).mean((2, 3))))
        return found.softmax(1) if self.softmax else found
