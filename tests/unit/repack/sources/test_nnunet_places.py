"""What of nnU-Net's a user may give: taken, or named with what to give instead."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repack.sources import Source, SourceError
from repack.sources.nnunet_places import CHECKPOINT
from tests.support.loading import load
from tests.support.nnunet import unpacked
from tests.support.volumes import zipped

RESULTS = "Dataset001_Tiny/nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nnUNet_results with one dataset of one configuration, two folds."""
    folder = tmp_path_factory.mktemp("nnUNet_results")
    unpacked(folder / RESULTS)
    (folder / RESULTS / "fold_0" / "checkpoint_best.pth").write_bytes(b"x")
    return folder


def weights(source: Source) -> torch.Tensor:
    assert source.module is not None
    found: torch.Tensor = next(iter(source.module.state_dict().values()))
    return found


@pytest.mark.parametrize("inside", ["fold_1", f"fold_1/{CHECKPOINT}"])
def test_a_fold_is_taken_out_of_its_results(root: Path, inside: str) -> None:
    whole = load(root / RESULTS, folds=("1",))
    found = load(root / RESULTS / inside)
    assert found.network.endswith("3d_fullres, fold_1")
    assert (found.settings, found.sha256) == (whole.settings, whole.sha256)
    assert torch.equal(weights(found), weights(whole))
    with pytest.raises(SourceError, match="one fold: leave --folds out"):
        load(root / RESULTS / inside, folds=("0",))


def test_a_dataset_of_one_configuration_is_taken(root: Path) -> None:
    assert load(root / "Dataset001_Tiny").sha256 == load(root / RESULTS).sha256


def several(folder: Path) -> Path:
    for name in ("2d", "3d_fullres"):
        (folder / name).mkdir(parents=True)
        for file in ("plans.json", "dataset.json"):
            (folder / name / file).write_text("{}")
    return folder


def raw(folder: Path) -> Path:
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "dataset.json").write_text("{}")
    return folder


def preprocessed(folder: Path) -> Path:
    folder.mkdir()
    for name in ("dataset_fingerprint.json", "dataset.json", "nnUNetPlans.json"):
        (folder / name).write_text("{}")
    return folder


def exported(path: Path) -> Path:
    files = {f"{RESULTS}/{name}": b"{}" for name in ("plans.json", "dataset.json")}
    path.write_bytes(zipped(files | {f"{RESULTS}/fold_0/{CHECKPOINT}": b"x"}))
    return path


def alone(path: Path) -> Path:
    tensors = {"a.weight": torch.zeros(2)}
    around = {"trainer_name": "nnUNetTrainer", "init_args": {"configuration": "2d"}}
    torch.save({"network_weights": tensors, **around}, path)
    return path


def of_v1(path: Path) -> Path:
    plots: tuple[list[Any], ...] = ([np.float64(1)], [0.5], [], [])
    torch.save({"epoch": 1, "state_dict": {"a": torch.zeros(2)}, "plot_stuff": plots}, path)
    return path


def plans_of_v1(folder: Path) -> Path:
    folder.mkdir()
    (folder / "plans.pkl").write_bytes(b"\x80\x04}.")
    return folder


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (several, "a folder of 2 nnU-Net results: give one of them, such as 2d, 3d_fullres"),
        (raw, "nnU-Net's raw data, without a trained network: give the folder of its results"),
        (preprocessed, "nnU-Net's preprocessed data"),
        (exported, f"nnU-Net's export of a model: unpack it (unzip) and give {RESULTS} of it"),
        (alone, "an nnU-Net checkpoint alone: how it prepares volumes is in plans.json"),
        (of_v1, "a checkpoint that is of nnU-Net v1, which the kit does not read: train with"),
        (plans_of_v1, "a folder that is of nnU-Net v1"),
        (lambda p: plans_of_v1(p) / "plans.pkl", "plans.pkl: a file that is of nnU-Net v1"),
    ],
)
def test_what_is_no_results_folder_is_named(
    tmp_path: Path, made: Callable[[Path], Path], words: str
) -> None:
    with pytest.raises(SourceError) as refusal:
        load(made(tmp_path / "given"))
    assert str(refusal.value).startswith(f"{tmp_path}/given")
    assert words in str(refusal.value)


def test_results_of_several_datasets_and_other_checkpoints(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"such as {RESULTS}"):
        load(root)
    with pytest.raises(SourceError, match=rf"a training that went on: give {CHECKPOINT}, or /"):
        load(root / RESULTS / "fold_0" / "checkpoint_best.pth")
    other = tmp_path / "other"
    shutil.copytree(root / RESULTS, other)
    for fold in ("fold_0", "fold_1"):
        (other / fold / CHECKPOINT).unlink()
    with pytest.raises(SourceError, match=r"\(there is checkpoint_best.pth\): has the training"):
        load(other)


def test_a_checkpoint_with_a_network_is_a_state_dict_wherever_it_lies(root: Path) -> None:
    with pytest.raises(SourceError, match=r"no\.such"):
        load(root / RESULTS / "fold_0" / CHECKPOINT, network="no.such:Net")


def test_a_folder_of_something_else_is_none_of_nnunets(tmp_path: Path) -> None:
    (tmp_path / "plans.json").write_text(json.dumps({}))
    with pytest.raises(SourceError, match="a folder, expected a file"):
        load(tmp_path)
