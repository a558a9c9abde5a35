"""A 3-D U-Net of nnU-Net's size, and a CT volume for it, both made up.

    python benchmarks/unet3d.py FOLDER [--train SECONDS]

writes ``net.pt`` (a state dict of ``benchmarks.unet3d:Net``), ``volumes.yaml`` and ``scan.nii.gz``.
The weights are seeded and random, so that labels lie undecided everywhere. With ``--train`` the
network learns the labels first, on an NVIDIA GPU where there is one, from cases like the scan but
with other places, sizes, densities and noise. Such weights depend on how many steps there was time
for.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

PATCH = (128, 160, 112)
SHAPE = (300, 512, 512)
SPACING = (1.0, 0.8, 0.8)
CHANNELS = (32, 64, 128, 256, 320, 320)
STRIDES = ((1, 1, 1), *[(2, 2, 2)] * 4, (2, 2, 1))
LABELS = ("background", "organ", "vessel")
CT = {"lower": -160, "upper": 300, "mean": 20.0, "std": 60.0}

MARGIN = 32  # voxels that a training case has more than a patch along every axis
RATE = 3e-3  # AdamW's first, which falls to 0


class Tube(NamedTuple):
    """A disc in every plane: centre and radius in voxels, its density in HU, and its label."""

    y: float
    x: float
    radius: float
    hu: float
    label: int


Case = tuple[NDArray[np.int16], NDArray[np.uint8]]
TUBES = (
    Tube(200, 180, 60, 110, LABELS.index("organ")),
    Tube(300, 330, 50, -80, LABELS.index("background")),  # fat
    Tube(256, 256, 25, 280, LABELS.index("vessel")),
)


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
    """``[n, 1, *patch]`` to logits ``[n, 3, *patch]``: six resolutions, as nnU-Net plans a CT.

    Fewer ``channels`` make a smaller network of as many resolutions.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        before, strides = (1, *channels), STRIDES[: len(channels)]
        self.encoder = nn.ModuleList(map(Stage, before, channels, strides))
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strides[:0:-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose3d(a, b, s, s) for a, b, s in pairs)
        self.decoder = nn.ModuleList(Stage(2 * b, b) for _, b, _ in pairs)
        self.last = nn.Conv3d(channels[0], len(LABELS), 1)

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


def make(folder: Path, seconds: float | None = None) -> None:
    """Writes ``net.pt``, ``volumes.yaml`` and ``scan.nii.gz``; trains for so long, if at all."""
    import nibabel as nib

    folder.mkdir(parents=True, exist_ok=True)
    voxels, labels = scan()
    image = nib.Nifti1Image(voxels.T, np.diag([*SPACING[::-1], 1.0]))
    (folder / "scan.nii.gz").write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))
    net = weights(voxels) if seconds is None else trained(voxels, labels, seconds)
    torch.save(net.state_dict(), folder / "net.pt")
    numbers = ", ".join(f"{k}: {v}" for k, v in CT.items())
    (folder / "volumes.yaml").write_text(
        f"channels:\n  - {{name: CT, normalisation: {{kind: ct, {numbers}}}}}\n"
        f"labels: [{', '.join(LABELS)}]\npatch: {list(PATCH)}\n",
        encoding="utf-8",
    )


def scan(
    shape: Sequence[int] = SHAPE,
    origin: Sequence[int] = (0, 0, 0),
    tubes: Sequence[Tube] = TUBES,
    body: float = 40,
    seed: int = 0,
) -> Case:
    """A body in air with organs and a vessel, and a scanner's noise.

    Gives int16 voxels in HU and uint8 labels, both ``[z, y, x]``: the window of this shape that
    begins at ``origin``, in voxels. Later tubes lie over earlier ones.
    """
    random = np.random.default_rng(seed)
    y, x = np.ogrid[: shape[1], : shape[2]]
    y, x = y + origin[1], x + origin[2]
    voxels, labels = np.empty(shape, np.int16), np.zeros(shape, np.uint8)
    for z, (plane, named) in enumerate(zip(voxels, labels, strict=True), origin[0]):
        values = np.full(plane.shape, -1000.0, np.float32)
        inside = ((y - 256) / 180) ** 2 + ((x - 256) / 230) ** 2 < 1 + 0.1 * np.sin(z / 40)
        values[inside] = body
        for tube in tubes:
            middle = tube.y + 10 * np.sin(z / 30)
            disc = (y - middle) ** 2 + (x - tube.x) ** 2 < tube.radius**2
            values[disc], named[disc] = tube.hu, tube.label
        values += random.normal(0, 12, plane.shape)
        plane[...] = np.clip(values, -1024, 3071)
    return voxels, labels


def case(seed: int, shape: Sequence[int]) -> Case:
    """A window for training: other tubes than the scan's, with one of them in the middle, or
    anywhere and often at an edge, as windows lie.

    int16 voxels in HU and uint8 labels, both of ``shape`` ``[z, y, x]``; seeds begin at 1.
    """
    random = np.random.default_rng(seed)
    tubes = [
        Tube(
            tube.y + random.uniform(-40, 40),
            tube.x + random.uniform(-40, 40),
            tube.radius * random.uniform(0.7, 1.3),
            tube.hu + random.uniform(-15, 15),
            tube.label,
        )
        for tube in TUBES
    ]
    room = np.subtract(SHAPE, shape)
    origin = random.uniform(-0.5, 1.5, 3) * room
    if seed % 2:
        tube = tubes[seed // 2 % len(tubes)]
        origin[1:] = tube.y - shape[1] / 2, tube.x - shape[2] / 2
    origin = origin.clip(0, room).astype(int)
    return scan(shape, origin.tolist(), tubes, random.uniform(30, 50), seed)


def trained(voxels: NDArray[np.int16], labels: NDArray[np.uint8], seconds: float) -> Net:
    """Weights that have learned the labels, f32 on the CPU; prints how well they find the scan's.

    ``voxels`` and ``labels`` are the scan's, ``[z, y, x]``; training does not see them.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    net = Net()
    steps = len(train(net, seconds))
    found = dice(net, voxels, labels)
    print(f"{steps} steps; Dice", ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    return net.cpu()


def train(
    net: Net, seconds: float, patch: Sequence[int] = PATCH, cases: int = 48, batch: int = 1
) -> list[float]:
    """Trains for at most so many seconds of wall time, but one step; gives every step's loss.

    Random patches ``[z, y, x]`` of a pool of cases, mirrored at random. The time for the pool
    counts. ``net`` stays on the GPU, if there is one, in eval mode.
    """
    began = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = [size + MARGIN for size in patch]
    with ThreadPoolExecutor() as threads:
        made = list(threads.map(lambda seed: case(seed, shape), range(1, cases + 1)))
    pool = [(torch.from_numpy(v).to(device), torch.from_numpy(n).to(device)) for v, n in made]
    net.to(device).train()
    optimiser = torch.optim.AdamW(net.parameters(), RATE, (0.9, 0.95))
    random = np.random.default_rng(0)
    losses: list[float] = []
    now, step = time.perf_counter() - began, 0.0
    while not losses or now + step < seconds:
        optimiser.param_groups[0]["lr"] = RATE * (1 - now / max(now, seconds)) ** 0.9
        drawn = [draw(*pool[random.integers(cases)], patch, random) for _ in range(batch)]
        x, target = (torch.stack(each) for each in zip(*drawn, strict=True))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = net(normalised(x)[:, None])
        loss = loss_of(logits.float(), target.long())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        before, now = now, time.perf_counter() - began
        step = now - before
    net.eval()
    return losses


def draw(
    voxels: Tensor, labels: Tensor, patch: Sequence[int], random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A patch ``[z, y, x]`` from anywhere in a case, and its labels, mirrored along some axes."""
    starts = [random.integers(n - p + 1) for n, p in zip(voxels.shape, patch, strict=True)]
    part = tuple(slice(a, a + p) for a, p in zip(starts, patch, strict=True))
    axes = [axis for axis in range(3) if random.random() < 0.5]
    return voxels[part].flip(axes), labels[part].flip(axes)


def normalised(voxels: Tensor) -> Tensor:
    """HU of any dtype as the network takes them, f32: clipped, minus the mean, over the spread."""
    return (voxels.float().clip(CT["lower"], CT["upper"]) - CT["mean"]) / CT["std"]


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy, and soft Dice of the labels that are there, but the background's.

    f32 ``[n, 3, *patch]`` and int64 ``[n, *patch]`` to f32 ``[]``.
    """
    shares = logits.softmax(1)
    wanted = F.one_hot(labels, len(LABELS)).movedim(-1, 1)
    axes = (0, 2, 3, 4)
    both, found, there = (each.sum(axes) for each in (shares * wanted, shares, wanted))
    missed = (1 - 2 * both / (found + there)) * (there > 0)
    return F.cross_entropy(logits, labels) + missed[1:].mean()


def dice(
    net: Net, voxels: NDArray[np.int16], labels: NDArray[np.uint8], patch: Sequence[int] = PATCH
) -> dict[str, float]:
    """Dice, 0 to 1, of each label but the background's in 3 by 4 windows across the middle.

    ``voxels`` in HU and ``labels`` are ``[z, y, x]``.
    """
    device = next(net.parameters()).device
    both, either = np.zeros(len(LABELS)), np.zeros(len(LABELS))
    z = (voxels.shape[0] - patch[0]) // 2
    ys, xs = (np.linspace(0, voxels.shape[i] - patch[i], i + 2, dtype=int) for i in (1, 2))
    for corner in ((z, y, x) for y in ys for x in xs):
        part = tuple(slice(a, a + p) for a, p in zip(corner, patch, strict=True))
        with torch.no_grad():
            logits = net(normalised(torch.from_numpy(voxels[part]).to(device))[None, None])
        mask, wanted = logits[0].argmax(0).cpu().numpy(), labels[part]
        for value in range(len(LABELS)):
            here, there = mask == value, wanted == value
            both[value] += 2 * (here & there).sum()
            either[value] += here.sum() + there.sum()
    shares = (both / either.clip(1)).tolist()
    return dict(zip(LABELS[1:], shares[1:], strict=True))


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--train", type=float, metavar="SECONDS", help="wall time to train for")
    given = parser.parse_args()
    make(given.folder, given.train)
