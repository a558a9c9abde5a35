"""A 3-D U-Net of nnU-Net's size, and a CT volume for it, both made up.

    python benchmarks/unet3d.py FOLDER

writes ``net.pt`` (a state dict of ``benchmarks.unet3d:Net``), ``volumes.yaml`` and ``scan.nii.gz``.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PATCH = (128, 160, 112)
SHAPE = (300, 512, 512)
SPACING = (1.0, 0.8, 0.8)
CHANNELS = (32, 64, 128, 256, 320, 320)
STRIDES = ((1, 1, 1), *[(2, 2, 2)] * 4, (2, 2, 1))
LABELS = ("background", "organ", "vessel")
CT = {"lower": -160, "upper": 300, "mean": 20.0, "std": 60.0}


class Stage(nn.Sequential):
    """Twice convolution, instance norm, leaky ReLU: nnU-Net's plain block."""

    def __init__(self, inputs: int, outputs: int, stride: Sequence[int] = (1, 1, 1)):
        layers: list[nn.Module] = []
        for i, first in enumerate((inputs, outputs)):
            step = tuple(stride) if i == 0 else 1
            layers.append(nn.Conv3d(first, outputs, 3, step, 1))  # type: ignore[arg-type]
            layers += [nn.InstanceNorm3d(outputs, affine=True), nn.LeakyReLU(0.01)]
        super().__init__(*layers)


class Net(nn.Module):
    """``[n, 1, *patch]`` to logits ``[n, 3, *patch]``: six resolutions, as nnU-Net plans a CT."""

    def __init__(self) -> None:
        super().__init__()
        before = (1, *CHANNELS)
        self.encoder = nn.ModuleList(map(Stage, before, CHANNELS, STRIDES))
        pairs = list(zip(CHANNELS[:0:-1], CHANNELS[-2::-1], STRIDES[:0:-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose3d(a, b, s, s) for a, b, s in pairs)
        self.decoder = nn.ModuleList(Stage(2 * b, b) for _, b, _ in pairs)
        self.last = nn.Conv3d(CHANNELS[0], len(LABELS), 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for stage in self.encoder:
            x = stage(x)
            kept.append(x)
        kept.pop()
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = stage(torch.cat([up(x), kept.pop()], 1))
        found: Tensor = self.last(x)
        return found


def make(folder: Path) -> None:
    """Writes ``net.pt``, ``volumes.yaml`` and ``scan.nii.gz``."""
    import nibabel as nib

    folder.mkdir(parents=True, exist_ok=True)
    voxels = scan()
    image = nib.Nifti1Image(voxels.T, np.diag([*SPACING[::-1], 1.0]))
    (folder / "scan.nii.gz").write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))
    torch.save(weights(voxels).state_dict(), folder / "net.pt")
    numbers = ", ".join(f"{k}: {v}" for k, v in CT.items())
    (folder / "volumes.yaml").write_text(
        f"channels:\n  - {{name: CT, normalisation: {{kind: ct, {numbers}}}}}\n"
        f"labels: [{', '.join(LABELS)}]\npatch: {list(PATCH)}\n",
        encoding="utf-8",
    )


def scan() -> NDArray[np.int16]:
    """``[z, y, x]`` int16: a body in air with organs and a vessel, and a scanner's noise, HU."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    found = np.empty(SHAPE, np.int16)
    for z, plane in enumerate(found):
        values = np.full(plane.shape, -1000.0, np.float32)
        body = ((y - 256) / 180) ** 2 + ((x - 256) / 230) ** 2 < 1 + 0.1 * np.sin(z / 40)
        values[body] = 40
        for down, across, radius, hu in (
            (200, 180, 60, 110),
            (300, 330, 50, -80),
            (256, 256, 25, 280),
        ):
            middle = down + 10 * np.sin(z / 30)
            values[(y - middle) ** 2 + (x - across) ** 2 < radius**2] = hu
        values += random.normal(0, 12, plane.shape)
        plane[...] = np.clip(values, -1024, 3071)
    return found


def weights(voxels: NDArray[np.int16]) -> Net:
    """Seeded weights; norms are not the identity, and every label wins about as often."""
    torch.manual_seed(0)
    net = Net().eval()
    middle = voxels[140:204, 200:264, 150:182].astype(np.float32)
    x = (np.clip(middle, CT["lower"], CT["upper"]) - CT["mean"]) / CT["std"]
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.InstanceNorm3d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        logits = net(torch.from_numpy(x)[None, None])[0].flatten(1)
        mean, spread = logits.mean(1), logits.std(1)
        net.last.weight /= spread[:, None, None, None, None]
        assert net.last.bias is not None
        net.last.bias.copy_((net.last.bias - mean) / spread)
    return net


if __name__ == "__main__":
    make(Path(sys.argv[1]))
