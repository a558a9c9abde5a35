"""Configurations of small MONAI bundles, in the form of MONAI's model zoo."""

from __future__ import annotations

from typing import Any

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
