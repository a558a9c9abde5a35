"""nnU-Net results folders: the real package's own, read and answered alike, and refused ones."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repack.networks.ensemble import Mean
from repack.sources import Source, SourceError, UnsafePickle, UnsupportedLayout, nnunet
from repack.sources import nnunet_plans as plans_of
from repack.sources.facts import Facts
from repack.sources.nnunet_places import CHECKPOINT
from repack.tasks.segmentation import model as segmentation
from tests.support.loading import load
from tests.support.nnunet import DATA, changed, fullres, older, unpacked
from tests.support.pickles import Attack, zip_with


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("nnunet"))


def answer(source: Source) -> Any:
    assert source.module is not None
    with np.load(DATA / "nnunet_tiny.npz") as data, torch.no_grad():
        return source.module(torch.from_numpy(data["window"])).numpy()


@pytest.mark.parametrize("fold", ["0", "1"])
def test_logits_equal_those_of_the_real_package(results: Path, fold: str) -> None:
    with np.load(DATA / "nnunet_tiny.npz") as data:
        expected = data[f"logits{fold}"]
    found = answer(load(results, folds=(fold,)))
    assert found.shape == expected.shape == (1, 3, 4, 16, 16)
    assert expected.std() > 0.1
    assert np.abs(found - expected).max() < 1e-4


def test_several_folds_answer_with_their_mean(results: Path) -> None:
    source = load(results)
    assert isinstance(source.module, Mean)
    assert source.network == "PlainConvUNet 3d_fullres, fold_0, fold_1"
    each = [answer(load(results, folds=(fold,))) for fold in ("0", "1")]
    assert np.abs(each[0] - each[1]).max() > 0.1
    assert np.allclose(answer(source), (each[0] + each[1]) / 2, atol=1e-5)


def test_what_the_plans_say_becomes_the_settings(results: Path) -> None:
    source = load(results, folds=("0",))
    assert (source.task, source.family) == ("segmentation", "nnunet")
    assert source.labels == ("background", "ball", "rod")
    plans = json.loads((results / "plans.json").read_text())
    properties = plans["foreground_intensity_properties_per_channel"]["0"]
    settings = source.settings
    assert settings["channels"] == [
        {
            "name": "CT",
            "normalisation": {
                "kind": "ct",
                "lower": properties["percentile_00_5"],
                "upper": properties["percentile_99_5"],
                "mean": properties["mean"],
                "std": properties["std"],
            },
        }
    ]
    assert settings["patch"] == [4, 16, 16]
    assert settings["spacing"] == fullres(plans)["spacing"]
    assert settings["crop"] == "nonzero"
    assert settings["resampling"]["data"] == {"order": 3, "order_z": 0, "separate_z": None}
    assert settings["windows"] == {"overlap": 0.5, "gaussian": True, "sigma": 0.125, "mirror": []}
    assert settings["answer"] == {"kind": "argmax"}
    assert json.loads(json.dumps(settings)) == settings


def test_mirroring_takes_the_axes_of_the_training(results: Path) -> None:
    assert load(results, mirror=True).settings["windows"]["mirror"] == [0, 1, 2]


def test_the_older_layout_of_the_plans_builds_the_same_network(
    results: Path, tmp_path: Path
) -> None:
    old = load(changed(tmp_path / "old", older))
    assert np.array_equal(answer(old), answer(load(results)))
    assert old.settings == load(results).settings


def test_loading_needs_neither_nnunet_nor_random_numbers(results: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load(results)
    assert torch.equal(torch.rand(1), expected)
    assert not {"nnunetv2", "timm", "torchvision"} & set(sys.modules)


def test_the_hash_covers_every_file_that_is_read(results: Path, tmp_path: Path) -> None:
    assert load(results).sha256 == load(results).sha256 != load(results, folds=("0",)).sha256
    other = changed(tmp_path / "other", lambda p, d: d.update(note="changed"))
    assert load(other).sha256 != load(results).sha256


def test_a_network_with_residual_encoder(results: Path, tmp_path: Path) -> None:
    """With the tensors of a fresh one: what counts is how the plans' arguments are read."""
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    def residual(plans: dict[str, Any], dataset: dict[str, Any]) -> None:
        found = fullres(plans)["architecture"]
        found["network_class_name"] = (
            "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet"
        )
        kwargs = found["arch_kwargs"]
        kwargs["n_blocks_per_stage"] = kwargs.pop("n_conv_per_stage")
        kwargs["block"] = "dynamic_network_architectures.building_blocks.residual.BottleneckD"
        kwargs["bottleneck_channels"] = [4, 4]

    folder = changed(tmp_path / "residual", residual)
    plans = Facts(folder / "plans.json", json.loads((folder / "plans.json").read_text()))
    configuration = plans_of.configuration(plans, "3d_fullres")
    _, arguments = plans_of.architecture(configuration)
    given = nnunet._resolved(configuration, arguments)
    network = ResidualEncoderUNet(input_channels=1, num_classes=3, **given)
    fold = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
    torch.save(fold | {"network_weights": network.state_dict()}, folder / "fold_0" / CHECKPOINT)
    source = load(folder, folds=("0",))
    assert source.network.startswith("ResidualEncoderUNet 3d_fullres")
    network.decoder.deep_supervision = False
    with np.load(DATA / "nnunet_tiny.npz") as data, torch.no_grad():
        expected = network.eval()(torch.from_numpy(data["window"])).numpy()
    assert np.allclose(answer(source), expected, atol=1e-6)


def test_regions_and_channels_of_brats(tmp_path: Path) -> None:
    def brats(plans: dict[str, Any], dataset: dict[str, Any]) -> None:
        dataset["labels"] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "edge": [3]}
        dataset["regions_class_order"] = [1, 2, 3]
        dataset["labels"]["ignore"] = 4
        fullres(plans)["normalization_schemes"] = ["ZScoreNormalization"]
        fullres(plans)["use_mask_for_norm"] = [True]

    source = load(changed(tmp_path / "brats", brats))
    assert source.settings["answer"] == {
        "kind": "regions",
        "order": [1, 2, 3],
        "names": ["whole", "core", "edge"],
    }
    assert source.labels == ("background", "whole", "core", "edge")
    assert source.settings["label_values"] == [0, 1, 2, 3]
    assert source.settings["channels"][0]["normalisation"] == {"kind": "zscore_nonzero"}
    assert segmentation.outputs_of(source.settings) == 3


def of(part: Callable[[dict[str, Any]], dict[str, Any]], **values: Any) -> Any:
    """A change of the plans."""
    return lambda plans, dataset: part(plans).update(values)


def network(plans: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = fullres(plans)["architecture"]
    return found


def arguments(plans: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = network(plans)["arch_kwargs"]
    return found


def whole(plans: dict[str, Any]) -> dict[str, Any]:
    return plans


def cascade(plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    base = plans["configurations"].pop("3d_fullres")
    plans["configurations"] = {
        "base": base,
        "3d_fullres": {"inherits_from": "base", "previous_stage": "3d_lowres"},
    }


def circle(plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    plans["configurations"] = {"3d_fullres": {"inherits_from": "3d_fullres"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (of(network, network_class_name="os.system"), "'os.system', expected dynamic_network"),
        (of(network, network_class_name="evil.PlainConvUNet"), "'evil.PlainConvUNet', expected"),
        (of(arguments, conv_op="os.Conv3d"), "conv_op: 'os.Conv3d', expected torch.nn's Conv2d"),
        (of(arguments, nonlin="torch.nn.Module"), "nonlin: 'torch.nn.Module', expected"),
        (of(arguments, block="builtins.eval"), "block: 'builtins.eval', expected"),
        (of(arguments, n_stages=3), "expected arguments that PlainConvUNet takes"),
        (of(arguments, features_per_stage=[4, 6]), "does not fit the plans' PlainConvUNet"),
        (of(fullres, preprocessor_name="MyPreprocessor"), "'MyPreprocessor', expected Default"),
        (of(fullres, resampling_fn_data="resample_torch_fornnunet"), "resampling_fn_data: "),
        (of(fullres, patch_size=[4, 16]), "configurations.3d_fullres.spacing"),
        (of(fullres, patch_size=[4, "a", 16]), "patch_size: [4, 'a', 16], expected 2 or 3 whole"),
        (of(fullres, spacing=[1.0, 0.0, 1.0]), "spacing: [1.0, 0.0, 1.0], expected 3 positive"),
        (of(fullres, normalization_schemes=["My"]), "'My', expected one of CTNormalization"),
        (of(whole, image_reader_writer="Tiff3DIO"), "'Tiff3DIO', expected one of SimpleITKIO"),
        (of(whole, transpose_forward=[0, 0, 1]), "transpose_forward: [0, 0, 1], expected"),
        (of(whole, label_manager="Mine"), "label_manager: 'Mine', expected LabelManager"),
        (of(whole, configurations={}), "one named '3d_fullres'"),
        (cascade, "the second step of a cascade"),
        (circle, "one named '3d_fullres'"),
        (lambda p, d: d.update(labels={"ball": 1}), "labels.background: nothing, expected 0"),
        (lambda p, d: d.update(labels={"background": 0, "ball": 5}), "without a gap"),
        (lambda p, d: d["labels"].update(rod=[1, 2]), "regions_class_order: nothing, expected 2"),
        (lambda p, d: d.update(channel_names={"1": "CT"}), 'expected names under "0"'),
    ],
)
def test_what_the_kit_does_not_do_is_one_line(tmp_path: Path, change: Any, words: str) -> None:
    with pytest.raises(UnsupportedLayout) as refusal:
        load(changed(tmp_path / "other", change))
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path}/other/")
    assert words in message
    assert message.isprintable()


def test_folds_that_are_not_there_are_named(results: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no fold_3/checkpoint_final.pth; there is fold_0, fold"):
        load(results, folds=("0", "3"))
    empty = unpacked(tmp_path / "empty")
    for fold in ("fold_0", "fold_1"):
        shutil.rmtree(empty / fold)
    with pytest.raises(SourceError, match=r"has the training ended\?"):
        load(empty)


def test_flags_of_other_sources_are_refused(results: Path) -> None:
    with pytest.raises(SourceError, match="an nnU-Net results folder: leave --network out"):
        load(results, network="a:B")
    with pytest.raises(SourceError, match="no nnU-Net results folder: leave --folds out"):
        load(DATA / "yolov5n_official.npz", folds=("0",))


def test_damaged_plans_are_named(results: Path, tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "damaged")
    (folder / "plans.json").write_text("{")
    with pytest.raises(SourceError, match=r"plans.json: no JSON"):
        load(folder)
    (folder / "plans.json").write_text("[1]")
    with pytest.raises(SourceError, match=r"plans.json: holds a list, expected a mapping"):
        load(folder)


def test_a_checkpoint_that_runs_code_is_refused_and_did_not(tmp_path: Path) -> None:
    folder, marker = unpacked(tmp_path / "evil"), tmp_path / "ran"
    attack = pickle.dumps({"network_weights": Attack(print, str(marker))}, 2)
    file = folder / "fold_0" / CHECKPOINT
    file.unlink()
    zip_with(file, attack)
    with pytest.raises(UnsafePickle, match=r"builtins\.print"):
        load(folder)


def test_an_unknown_trainer_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = unpacked(tmp_path / "own")
    file = folder / "fold_0" / CHECKPOINT
    content = torch.load(file, weights_only=False)
    load(folder, folds=("0",))
    assert "note" not in capsys.readouterr().err
    torch.save(content | {"trainer_name": "nnUNetTrainerMine"}, file)
    load(folder, folds=("0",))
    assert "trained by nnUNetTrainerMine, which the kit does not know" in capsys.readouterr().err
