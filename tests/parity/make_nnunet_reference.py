"""Trains real nnU-Nets for a few iterations on synthetic cases and keeps their own answers.

Runs in an environment that has ``nnunetv2`` (tests/parity/README.md), never in the kit's:

    python tests/parity/make_nnunet_reference.py FOLDER

Per dataset there is ``FOLDER/results/DatasetNNN_.../nnUNetTrainer__PLANS__CONFIGURATION`` as
training leaves it, ``FOLDER/cases/DatasetNNN`` with unseen inputs, and ``FOLDER/masks`` with what
the package's own predictor answers: ``DATASET__CONFIGURATION__foldsF/CASE.nii.gz``, and
``CASE.npz`` with the preprocessed input and the raw logits of each.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

CASES, UNSEEN = 6, 2
EPOCHS, ITERATIONS = 8, 40

DATASETS: dict[int, dict[str, Any]] = {
    901: {
        "name": "Dataset901_Rods",
        "spacing": (4.0, 0.9, 0.9),
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "ball": 1, "rod": 2},
        "patch": {"3d_fullres": [8, 32, 32], "2d": [48, 48]},
    },
    902: {
        "name": "Dataset902_Shells",
        "spacing": (1.0, 1.1, 3.6),
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "whole": [1, 2], "core": [2]},
        "regions_class_order": [1, 2],
        "patch": {"3d_fullres": [8, 32, 32]},
    },
}
"""901: anisotropic, one CT channel, argmax. 902: coarse along x, so that the plans transpose
it; two MR channels with an empty border, regions."""


def scene(rng: np.random.Generator, dataset: dict[str, Any]) -> tuple[Any, Any, tuple[float, ...]]:
    """One case: channels ``[C, z, y, x]`` float32, labels ``[z, y, x]`` uint8, spacing in mm."""
    spacing = tuple(float(s * rng.uniform(0.85, 1.2)) for s in dataset["spacing"])
    size = [round(n / s) for n, s in zip((64, 54, 60), spacing, strict=True)]
    grid = np.meshgrid(
        *(np.arange(n) * s for n, s in zip(size, spacing, strict=True)), indexing="ij"
    )
    where = np.stack(grid)
    centre = np.array([rng.uniform(22, 40), rng.uniform(20, 30), rng.uniform(20, 34)])
    away = np.sqrt(((where - centre[:, None, None, None]) ** 2).sum(0))
    labels = np.zeros(size, np.uint8)
    if len(dataset["channel_names"]) == 1:
        labels[away < rng.uniform(10, 14)] = 1
        line = np.hypot(where[1] - 42, where[2] - rng.uniform(40, 48))
        labels[line < rng.uniform(4, 6)] = 2
        image = np.choose(labels, [-600.0, 40.0, 300.0])[None] + rng.normal(0, 60, size)
    else:
        labels[away < rng.uniform(11, 14)] = 1
        labels[away < rng.uniform(6, 8)] = 2
        image = np.stack([np.choose(labels, [300, 700, 500]), np.choose(labels, [200, 300, 800])])
        image = image + rng.normal(0, 40, (2, *size))
        body = np.hypot(where[1] - 27, where[2] - 30) < 22
        image[:, ~body] = 0
        image[:, :2] = 0
    return image.astype(np.float32), labels, spacing


def write(path: Path, array: Any, spacing: tuple[float, ...], seed: int) -> None:
    """A NIfTI on a turned and shifted grid; ``spacing`` in array order."""
    import SimpleITK

    sitk: Any = SimpleITK
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin((-30.0 + seed, 12.5, 40.0))
    angle = 0.1 * seed
    c, s = np.cos(angle), np.sin(angle)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def make_cases(root: Path, number: int) -> None:
    """The raw dataset and the unseen cases."""
    d = DATASETS[number]
    rng = np.random.default_rng(number)
    raw = root / "raw" / d["name"]
    for i in range(CASES + UNSEEN):
        image, labels, spacing = scene(rng, d)
        folder = raw / "imagesTr" if i < CASES else root / "cases" / d["name"]
        for c, channel in enumerate(image):
            write(folder / f"case{i}_{c:04d}.nii.gz", channel, spacing, i)
        truth = raw / "labelsTr" if i < CASES else root / "cases" / d["name"] / "truth"
        write(truth / f"case{i}.nii.gz", labels, spacing, i)
    keys = ("channel_names", "labels", "regions_class_order")
    content: dict[str, Any] = {key: d[key] for key in keys if key in d}
    content |= {"numTraining": CASES, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(content))


def plan(root: Path, number: int, planner: str, plans_name: str) -> None:
    """The package's own fingerprint, plans (made small) and preprocessing."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    d = DATASETS[number]
    api.extract_fingerprints([number], num_processes=2, clean=planner == "ExperimentPlanner")
    api.plan_experiments([number], planner)
    path = root / "preprocessed" / d["name"] / f"{plans_name}.json"
    plans = json.loads(path.read_text())
    for name, patch in d["patch"].items():
        shrink(plans["configurations"][name], patch)
    path.write_text(json.dumps(plans, indent=1))
    api.preprocess([number], plans_name, list(d["patch"]), [2] * len(d["patch"]))


def shrink(configuration: dict[str, Any], patch: list[int]) -> None:
    """Three stages of 8 to 32 channels and a small patch: seconds instead of days."""
    kwargs = configuration["architecture"]["arch_kwargs"]
    flat = len(patch) == 3 and patch[0] < patch[1] / 2
    kwargs["n_stages"] = 3
    kwargs["features_per_stage"] = [8, 16, 32]
    kwargs["kernel_sizes"] = [[1, 3, 3] if flat and i == 0 else [3] * len(patch) for i in range(3)]
    kwargs["strides"] = [
        [1] * len(patch),
        [1, 2, 2] if flat else [2] * len(patch),
        [2] * len(patch),
    ]
    for key in ("n_conv_per_stage", "n_blocks_per_stage"):
        if key in kwargs:
            kwargs[key] = [2, 2, 2] if key == "n_conv_per_stage" else [1, 2, 2]
    kwargs["n_conv_per_stage_decoder"] = [2, 2] if "n_conv_per_stage" in kwargs else [1, 1]
    configuration["patch_size"] = patch
    configuration["batch_size"] = 2 if len(patch) == 3 else 6


def train(root: Path, number: int, configuration: str, fold: int, plans_name: str) -> None:
    """The package's own trainer, for ``EPOCHS`` short epochs on the CPU."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = root / "preprocessed" / DATASETS[number]["name"]
    plans = json.loads((folder / f"{plans_name}.json").read_text())
    dataset = json.loads((folder / "dataset.json").read_text())
    torch.manual_seed(100 * number + fold)
    plans["continue_training"] = False
    trainer = nnUNetTrainer(plans, configuration, fold, dataset, torch.device("cpu"))
    trainer.num_epochs = EPOCHS
    trainer.num_iterations_per_epoch = ITERATIONS
    trainer.num_val_iterations_per_epoch = 2
    trainer.run_training()


def predict(root: Path, number: int, results: Path, folds: tuple[int, ...], mirror: bool) -> None:
    """The package's own predictor on the unseen cases."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    d = DATASETS[number]
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=mirror,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(results), folds, "checkpoint_final.pth")
    name = f"{results.parent.name}__{'__'.join(results.name.split('__')[1:])}__folds"
    out = root / "masks" / (name + "".join(map(str, folds)) + ("__mirror" if mirror else ""))
    out.mkdir(parents=True, exist_ok=True)
    channels = len(d["channel_names"])
    for i in range(CASES, CASES + UNSEEN):
        files = [
            str(root / "cases" / d["name"] / f"case{i}_{c:04d}.nii.gz") for c in range(channels)
        ]
        target = str(out / f"case{i}")
        predictor.predict_from_files([files], [target], False, True, 1, 1)
        preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
        data, _, _ = preprocessor.run_case(
            files, None, predictor.plans_manager, predictor.configuration_manager, d
        )
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
        np.savez_compressed(
            target + ".npz", data=data.astype(np.float32), logits=logits.numpy().astype(np.float32)
        )


def main(root: Path) -> None:
    """Everything; a few minutes on two cores."""
    for key in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{key}"] = str(root / key)
    os.environ |= {"nnUNet_n_proc_DA": "2", "nnUNet_def_n_proc": "2", "nnUNet_compile": "f"}
    for number, d in DATASETS.items():
        make_cases(root, number)
        planners = [("ExperimentPlanner", "nnUNetPlans")]
        if number == 901:
            planners.append(("nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans"))
        for planner, plans_name in planners:
            plan(root, number, planner, plans_name)
            resenc = planner != "ExperimentPlanner"
            for configuration in ["3d_fullres"] if resenc else d["patch"]:
                folds = (0,) if resenc or number == 902 else (0, 1)
                for fold in folds:
                    train(root, number, configuration, fold, plans_name)
                results = root / "results" / d["name"]
                results /= f"nnUNetTrainer__{plans_name}__{configuration}"
                predict(root, number, results, (0,), False)
                if len(folds) == 2:
                    predict(root, number, results, folds, False)
                if configuration == "3d_fullres" and number == 901 and not resenc:
                    predict(root, number, results, (0,), True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
