"""Makes real MONAI bundles with MONAI's own tools and keeps what they answer themselves.

Runs in an environment that has ``monai`` (tests/parity/README.md):

    python tests/parity/make_monai_reference.py FOLDER

``FOLDER/cases`` holds unseen scans, ``FOLDER/NAME`` a bundle (``init_bundle``, ``ckpt_export``),
``FOLDER/masks/NAME`` what ``monai.bundle run`` answers for them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import nibabel
import numpy as np
import torch

from tests.parity.monai_configs import NETWORKS, config, metadata

CASES = 3
STEPS = 250


def scene(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Scan ``[x, y, z]`` float32, labels, affine of a grid that is flipped in x and y."""
    size, spacing = (56, 60, 26), (1.1, 0.9, 2.4)
    where = np.stack(
        np.meshgrid(*(np.arange(n) * s for n, s in zip(size, spacing, strict=True)), indexing="ij")
    )
    labels = np.zeros(size, np.uint8)
    for value in (1, 2):
        centre = np.array([rng.uniform(15, 45), rng.uniform(15, 40), rng.uniform(15, 45)])
        away = np.sqrt(((where - centre[:, None, None, None]) ** 2).sum(0))
        labels[away < rng.uniform(8, 12)] = value
    scan = np.choose(labels, [-80.0, 60.0, 140.0]) + rng.normal(0, 25, size)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = (30.0, 25.0, -12.0)
    return scan.astype(np.float32), labels, affine


def write_cases(root: Path) -> None:
    """Unseen scans with their labels beside them."""
    rng = np.random.default_rng(77)
    (root / "cases" / "truth").mkdir(parents=True, exist_ok=True)
    for i in range(CASES):
        scan, labels, affine = scene(rng)
        nibabel.save(nibabel.Nifti1Image(scan, affine), root / "cases" / f"case{i}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, affine), root / "cases/truth" / f"case{i}.nii.gz")


def trained(bundle: Path) -> Any:
    """The bundle's own network after a few steps on prepared scenes."""
    from monai.bundle import ConfigParser
    from monai.data import MetaTensor
    from monai.losses import DiceCELoss
    from monai.transforms import Compose, ResampleToMatch

    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    torch.manual_seed(3)
    network = parser.get_parsed_content("network_def")
    transforms = parser.get_parsed_content("preprocessing").transforms[2:]
    transforms = Compose([t for t in transforms if "Crop" not in type(t).__name__])
    rng = np.random.default_rng(5)
    several = NETWORKS[bundle.name]["out_channels"] > 1
    scenes = []
    for _ in range(4):
        scan, labels, affine = scene(rng)
        turned = torch.as_tensor(affine)
        image = transforms({"image": MetaTensor(scan[None], affine=turned)})["image"]
        truth = MetaTensor(labels[None].astype(np.float32), affine=turned)
        truth = ResampleToMatch(mode="nearest")(truth, image)
        scenes.append((image.as_tensor(), truth.as_tensor()))
    loss = DiceCELoss(softmax=several, sigmoid=not several, to_onehot_y=several)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for step in range(STEPS):
        image, labels = scenes[step % len(scenes)]
        at = [
            int(rng.integers(0, n - w + 1))
            for n, w in zip(image.shape[1:], (32, 32, 16), strict=True)
        ]
        cut = (slice(None), *(slice(a, a + w) for a, w in zip(at, (32, 32, 16), strict=True)))
        target = labels[cut][None] if several else (labels[cut][None] == 1).float()
        error = loss(network(image[cut][None]), target)
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    print(bundle.name, "loss", float(error))
    return network.eval()


def main(root: Path) -> None:
    """Everything; about a minute on two cores."""
    import os

    from monai.bundle import ckpt_export, init_bundle, run

    root.mkdir(parents=True, exist_ok=True)
    os.chdir(root)
    write_cases(root)
    for name in NETWORKS:
        bundle = root / name
        init_bundle(str(bundle))
        (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata(name), indent=1))
        (bundle / "configs" / "inference.json").write_text(json.dumps(config(name), indent=1))
        (bundle / "models").mkdir(exist_ok=True)
        torch.save(trained(bundle).state_dict(), bundle / "models" / "model.pt")
        where = {
            "config_file": str(bundle / "configs" / "inference.json"),
            "meta_file": str(bundle / "configs" / "metadata.json"),
        }
        ckpt_export(
            net_id="network_def",
            filepath=str(bundle / "models" / "model.ts"),
            ckpt_file=str(bundle / "models" / "model.pt"),
            **where,
        )
        run(**where, bundle_root=str(bundle), output_dir=str(root / "masks" / name))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
