"""Results folders for the tests: the real package's own, and what a test makes of it."""

from __future__ import annotations

import copy
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data"

Change = Callable[[dict[str, Any], dict[str, Any]], None]


def unpacked(folder: Path) -> Path:
    """The real package's results folder (tests/parity), two folds of a 3d_fullres."""
    with tarfile.open(DATA / "nnunet_tiny.tar.xz") as archive:
        for member in archive:
            if (content := archive.extractfile(member)) is not None:
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    return folder


def changed(folder: Path, change: Change) -> Path:
    """A results folder whose plans.json and dataset.json were changed."""
    unpacked(folder)
    files = folder / "plans.json", folder / "dataset.json"
    plans, dataset = (json.loads(file.read_text()) for file in files)
    change(plans, dataset)
    for file, content in zip(files, (plans, dataset), strict=True):
        file.write_text(json.dumps(content))
    return folder


def fullres(plans: dict[str, Any]) -> dict[str, Any]:
    configuration: dict[str, Any] = plans["configurations"]["3d_fullres"]
    return configuration


def older(plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    """As nnunetv2 before 2.4 wrote plans and dataset: no "architecture", "modality"."""
    configuration = fullres(plans)
    kwargs = configuration.pop("architecture")["arch_kwargs"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": kwargs["features_per_stage"][0],
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": copy.copy(kwargs["n_conv_per_stage"]),
        "n_conv_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
        "conv_kernel_sizes": kwargs["kernel_sizes"],
        "pool_op_kernel_sizes": kwargs["strides"],
        "num_pool_per_axis": [0, 1, 1],
    }
    dataset["modality"] = dataset.pop("channel_names")
    key = "foreground_intensity_properties_per_channel"
    plans["foreground_intensity_properties_by_modality"] = plans.pop(key)
