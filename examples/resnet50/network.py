"""ResNet (He et al., arXiv:1512.03385) of bottleneck blocks, stride in the 3x3 convolution (v1.5).

Weights are random and the same for one seed; the batch norms are fitted to noise, so that every
layer's values have the size that a trained network's have.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks per stage."""

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside the identity: ``[N, C, H, W]`` to
    ``[N, 4 * planes, H / stride, W / stride]``."""

    def __init__(self, channels: int, planes: int, stride: int):
        super().__init__()
        out = planes * EXPANSION
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            projection = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    """``[N, 3, H, W]`` float32 to logits ``[N, classes]``.

    Args:
        depth: a key of ``DEPTHS``; 50 has 25.6 million weights at width 64 and 1000 classes.
        width: channels of the first stage; ResNet's own is 64.
    """

    def __init__(self, depth: int = 50, classes: int = 1000, width: int = 64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(DEPTHS[depth]):
            for i in range(count):
                stride = 2 if stage and not i else 1
                blocks.append(Bottleneck(channels, width << stage, stride))
                channels = (width << stage) * EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.maxpool(torch.relu(self.bn1(self.conv1(x)))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def resnet(
    depth: int = 50, classes: int = 1000, width: int = 64, side: int = 224, seed: int = 0
) -> ResNet:
    """A ResNet with random weights, in evaluation mode, without gradients.

    Args:
        side: of the noise that the batch norms are fitted to, pixels.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = ResNet(depth, classes, width)
        nn.init.normal_(module.fc.weight, 0, 1 / module.fc.in_features**0.5)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = None  # the mean over all batches that follow
            if isinstance(part, Bottleneck):
                nn.init.constant_(part.bn3.weight, 0.2)  # trained blocks change their input little
        module.train()
        for _ in range(2):
            module(_blobs(4, side))
    return module.eval().requires_grad_(False)


def _blobs(count: int, side: int) -> Tensor:
    """Noise of coarse and fine grain, as normalised pictures have: ``[count, 3, side, side]``."""
    coarse = torch.nn.functional.interpolate(
        torch.randn(count, 3, 7, 7), (side, side), mode="bilinear", align_corners=False
    )
    return coarse + 0.3 * torch.randn(count, 3, side, side)
