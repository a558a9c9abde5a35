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

import nibabel
import numpy as np
import torch

CASES = 3
STEPS = 250

NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 3,
        "channels": [8, 16, 32],
        "strides": [2, 2],
        "num_res_units": 1,
        "norm": "batch",
    },
    "segresnet": {
        "_target_": "monai.networks.nets.SegResNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 1,
        "init_filters": 8,
        "blocks_down": [1, 2, 2],
        "blocks_up": [1, 1],
    },
}
"""unet: softmax of three labels, inverted before argmax. segresnet: one sigmoid, inverted after."""


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


def config(name: str) -> dict[str, Any]:
    """``inference.json`` in the form of MONAI's model zoo."""
    several = NETWORKS[name]["out_channels"] > 1
    scaling: dict[str, Any] = {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": False}
    if several:
        scaling = {"_target_": "ScaleIntensityRanged", "keys": "@image_key", "a_min": -100}
        scaling |= {"a_max": 200, "b_min": 0.0, "b_max": 1.0, "clip": True}
    invert: dict[str, Any] = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing"}
    invert |= {"orig_keys": "@image_key", "nearest_interp": not several, "to_tensor": True}
    activation: dict[str, Any] = {
        "_target_": "Activationsd",
        "keys": "pred",
        "softmax" if several else "sigmoid": True,
    }
    discrete: dict[str, Any] = {"_target_": "AsDiscreted", "keys": "pred"}
    discrete |= {"argmax": True} if several else {"threshold": 0.5}
    save: dict[str, Any] = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"}
    save |= {"output_ext": ".nii.gz", "separate_folder": False, "output_postfix": ""}
    load = [
        {"_target_": "LoadImaged", "keys": "@image_key"},
        {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
        {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
        {
            "_target_": "Spacingd",
            "keys": "@image_key",
            "pixdim": "$[1.5, 1.5, 4.0 / 2]",
            "mode": "bilinear",
        },
        scaling,
        *(
            []
            if several
            else [
                {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "margin": 2}
            ]
        ),
        {"_target_": "EnsureTyped", "keys": "@image_key"},
    ]
    post = [activation, invert, discrete] if several else [activation, discrete, invert]
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "cases",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii.gz'))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": NETWORKS[name],
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": load},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [32, 32, 16],
            "sw_batch_size": 4,
            "overlap": 0.5 if several else 0.25,
            "mode": "gaussian" if several else "constant",
        },
        "postprocessing": {"_target_": "Compose", "transforms": [*post, save]},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def metadata(name: str) -> dict[str, Any]:
    outputs = NETWORKS[name]["out_channels"]
    names = ["background", "ball", "other"][:outputs] if outputs > 1 else ["ball"]
    image = {"type": "image", "format": "hounsfield", "modality": "CT", "num_channels": 1}
    pred = {"type": "image", "format": "segmentation", "num_channels": outputs}
    image |= {"spatial_shape": [32, 32, 16], "dtype": "float32", "value_range": [0, 1]}
    pred |= {"spatial_shape": [32, 32, 16], "dtype": "float32", "value_range": [0, 1]}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": "made by a test"},
        "monai_version": "1.6.1",
        "pytorch_version": "2.13.0",
        "numpy_version": "2.4.6",
        "required_packages_version": {},
        "task": "segmentation of synthetic balls",
        "description": "a test's bundle",
        "authors": "",
        "copyright": "",
        "name": name,
        "network_data_format": {
            "inputs": {"image": {**image, "is_patch_data": True, "channel_def": {"0": "CT"}}},
            "outputs": {
                "pred": {
                    **pred,
                    "is_patch_data": True,
                    "channel_def": {str(i): n for i, n in enumerate(names)},
                }
            },
        },
    }


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
