"""A real nnU-Net results folder small enough for the repository, and the package's own answers.

Runs in an environment that has ``nnunetv2`` (tests/parity/README.md):

    python tests/parity/make_nnunet_tiny.py tests/data

Two folds of a 3d_fullres network with random weights, saved by the package's own trainer after one
step of its optimiser, go to ``nnunet_tiny.tar.xz``. ``nnunet_tiny.npz`` has a scan with its
spacing, one window with the logits of each fold, the masks of the package's predictor, and by how
much probability each voxel's label was ahead of the next.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.parity import make_nnunet_reference as reference

PATCH = [4, 16, 16]
NUMBER = 901


def shrunk_plans(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The package's own plans, with two stages of 4 and 8 channels; and its dataset.json."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    reference.make_cases(root, NUMBER)
    api.extract_fingerprints([NUMBER], num_processes=2)
    api.plan_experiments([NUMBER], "ExperimentPlanner")
    folder = root / "preprocessed" / reference.DATASETS[NUMBER]["name"]
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    plans["configurations"] = {"3d_fullres": configuration}
    kwargs = configuration["architecture"]["arch_kwargs"]
    kwargs |= {"n_stages": 2, "features_per_stage": [4, 8], "n_conv_per_stage": [1, 1]}
    kwargs |= {"kernel_sizes": [[1, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2]]}
    kwargs["n_conv_per_stage_decoder"] = [1]
    configuration |= {"patch_size": PATCH, "batch_size": 2}
    dataset = json.loads((root / "raw" / folder.name / "dataset.json").read_text())
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    api.preprocess([NUMBER], "nnUNetPlans", ["3d_fullres"], [2])
    return plans, dataset


def save_fold(plans: dict[str, Any], dataset: dict[str, Any], fold: int) -> Any:
    """One fold, as the package's trainer saves it; returns the trainer."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.manual_seed(40 + fold)
    given = json.loads(json.dumps(plans)) | {"continue_training": False}
    trainer = nnUNetTrainer(given, "3d_fullres", fold, dataset, torch.device("cpu"))
    trainer.initialize()
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # sets the mirror axes
    for name, tensor in trainer.network.named_parameters():
        spread = 0.02 if name.endswith("bias") else 0.3
        torch.nn.init.normal_(tensor, float("norm.weight" in name), spread)
    outputs = trainer.network(torch.randn(1, 1, *PATCH))
    sum(o.square().mean() for o in outputs).backward()
    trainer.optimizer.step()
    trainer._best_ema = np.float64(0.5)
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    return trainer


def main(target: Path) -> None:
    """Writes both files."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for key in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{key}"] = str(root / key)
        os.environ |= {"nnUNet_n_proc_DA": "2", "nnUNet_def_n_proc": "2", "nnUNet_compile": "f"}
        plans, dataset = shrunk_plans(root)
        results = [Path(save_fold(plans, dataset, fold).output_folder) for fold in (0, 1)]
        for name, content in (("plans.json", plans), ("dataset.json", dataset)):
            (results[0].parent / name).write_text(json.dumps(content, indent=1))
        rng = np.random.default_rng(1)
        scan, _, spacing = reference.scene(rng, reference.DATASETS[NUMBER])
        scan = scan[:, 2:12, 10:50, 16:60].round()
        window = rng.standard_normal((1, 1, *PATCH)).astype(np.float32)
        kept: dict[str, Any] = {"scan": scan.astype(np.int16), "spacing": np.array(spacing)}
        kept["window"] = window
        for folds in ((0,), (1,), (0, 1)):
            predictor = nnUNetPredictor(
                use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu")
            )
            predictor.initialize_from_trained_model_folder(str(results[0].parent), folds)
            name = "".join(map(str, folds))
            if len(folds) == 1:
                with torch.no_grad():
                    kept[f"logits{name}"] = predictor.network(torch.from_numpy(window)).numpy()
            properties = {"spacing": list(spacing)}
            mask, shares = predictor.predict_single_npy_array(
                scan, properties, save_or_return_probabilities=True
            )
            kept[f"mask{name}"] = mask.astype(np.uint8)
            best = np.sort(shares, axis=0)
            kept[f"margin{name}"] = (best[-1] - best[-2]).astype(np.float16)
            print(name, np.bincount(mask.ravel()))
        target.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(target / "nnunet_tiny.npz", **kept)
        with tarfile.open(target / "nnunet_tiny.tar.xz", "w:xz") as archive:
            top = results[0].parent
            for file in sorted([*top.glob("*.json"), *top.glob("fold_*/checkpoint_final.pth")]):
                info = archive.gettarinfo(file, file.relative_to(top).as_posix())
                info.uname = info.gname = ""
                info.mtime = info.uid = info.gid = 0
                with file.open("rb") as stream:
                    archive.addfile(info, stream)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
