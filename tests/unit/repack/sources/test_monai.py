"""MONAI bundles: configs read as data, settings out of transforms, networks out of MONAI."""

from __future__ import annotations

import copy
import json
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from repack.options import Options
from repack.sources import SourceError
from repack.sources.bundle import Config
from repack.tasks.segmentation.model import INPUT, OUTPUT, make
from tests.parity import monai_configs
from tests.support.loading import load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of MONAI's optional packages
    nets = pytest.importorskip("monai.networks.nets", reason="monai is not installed")


def network(name: str) -> nn.Module:
    given = {k: v for k, v in monai_configs.NETWORKS[name].items() if k != "_target_"}
    torch.manual_seed(4)
    found: nn.Module = (nets.UNet if name == "unet" else nets.SegResNet)(**given)
    return found.eval()


Change = Callable[[dict[str, Any], dict[str, Any]], None]


def bundle(folder: Path, name: str = "unet", change: Change | None = None) -> Path:
    """A bundle as MONAI's tools lay it out, with random weights."""
    config, metadata = monai_configs.config(name), monai_configs.metadata(name)
    config, metadata = copy.deepcopy(config), copy.deepcopy(metadata)
    if change:
        change(config, metadata)
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.save(network(name).state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.mark.parametrize("name", ["unet", "segresnet"])
def test_the_network_answers_like_monais(tmp_path: Path, name: str) -> None:
    source = load(bundle(tmp_path / "bundle", name))
    assert (source.task, source.family) == ("segmentation", "monai")
    model = make(source, Options())
    windows = model.random_inputs(1, 2)
    with torch.no_grad():
        expected = network(name)(torch.from_numpy(windows[INPUT])).numpy()
    assert np.array_equal(model.ask(windows)[OUTPUT], expected)


def test_transforms_become_settings(tmp_path: Path) -> None:
    source = load(bundle(tmp_path / "bundle"))
    assert source.labels == ("background", "ball", "other")
    settings = source.settings
    assert settings["orientation"] == "RAS"
    assert settings["transpose_forward"] == [2, 1, 0]
    assert settings["spacing"] == [1.5, 1.5, 2.0]
    assert settings["patch"] == [32, 32, 16]
    scaling = {"kind": "scale_range", "a_min": -100.0, "a_max": 200.0, "b_min": 0.0, "b_max": 1.0}
    assert settings["channels"] == [{"name": "CT", "normalisation": {**scaling, "clip": True}}]
    assert settings["windows"] == {"overlap": 0.5, "gaussian": True, "sigma": 0.125, "mirror": []}
    assert settings["answer"] == {"kind": "argmax"}
    assert settings["resampling"]["logits"]["order"] == 1
    own = settings["monai"]
    assert own["order"] == ["orientation", "spacing", "normalise"]
    assert (own["invert_at"], own["crop"]) == ("softmax", None)
    assert json.loads(json.dumps(settings)) == settings
    assert "eval" not in json.dumps(settings), "folders of the bundle's author stay out"


def test_a_sigmoid_and_a_crop(tmp_path: Path) -> None:
    source = load(bundle(tmp_path / "bundle", "segresnet"))
    assert source.labels == ("background", "ball")
    settings = source.settings
    assert settings["answer"] == {"kind": "sigmoid_threshold", "threshold": 0.5}
    assert settings["windows"]["gaussian"] is False
    assert settings["monai"]["invert_at"] == "mask"
    assert settings["resampling"]["logits"]["order"] == 0
    assert settings["monai"]["crop"] == {
        "margin": [2, 2, 2],
        "select": "> 0",
        "allow_smaller": False,
    }


def test_a_zip_is_read_like_the_folder(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle")
    packed = tmp_path / "bundle.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, Path("zoo") / file.relative_to(folder))
    ours, theirs = load(packed), load(folder)
    assert ours.settings == theirs.settings
    for name, tensor in theirs.module.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(tensor, ours.module.state_dict()[name])  # type: ignore[union-attr]


def test_yaml_says_the_same(tmp_path: Path) -> None:
    import yaml

    folder = bundle(tmp_path / "bundle")
    settings = load(folder).settings
    file = folder / "configs" / "inference.json"
    file.with_suffix(".yaml").write_text(yaml.safe_dump(json.loads(file.read_text())))
    file.unlink()
    assert load(folder).settings == settings


def test_without_a_known_network_its_torchscript_is_taken(tmp_path: Path) -> None:
    def own(config: dict[str, Any], metadata: dict[str, Any]) -> None:
        config["network_def"]["_target_"] = "scripts.net.MyNet"

    folder = bundle(tmp_path / "bundle", change=own)
    with pytest.raises(SourceError, match=r"network_def._target_: 'scripts.net.MyNet', expected"):
        load(folder)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network("unet"), torch.zeros(1, 1, 32, 32, 16))
        torch.jit.save(traced, str(folder / "models" / "model.ts"))
    source = load(folder)
    assert source.network == "MyNet (TorchScript)"
    assert make(source, Options()).outputs[0].shape == ("batch", 3, 32, 32, 16)


def test_without_monai_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    folder = bundle(tmp_path / "bundle")
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    with pytest.raises(SourceError, match=r"not installed: pip install monai==1\.6\.1, or export"):
        load(folder)


RAN: list[str] = []


def evil() -> None:
    RAN.append("yes")


def step(section: str, number: int, **values: Any) -> Change:
    return lambda config, metadata: config[section]["transforms"][number].update(values)


def added(section: str, **values: Any) -> Change:
    return lambda config, metadata: config[section]["transforms"].insert(0, values)


def inferer(**values: Any) -> Change:
    return lambda config, metadata: config["inferer"].update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (inferer(roi_size="$__import__('os').getcwd()"), "inferer#roi_size: the expression"),
        (inferer(roi_size="$[i for i in (1, 2)]"), "is not computed here"),
        (inferer(roi_size="$9 ** 9 ** 9"), "is not computed here"),
        (inferer(roi_size="$[0] * 10"), "list and int combined"),
        (inferer(roi_size="$" + "(" * 400 + "1" + ")" * 400), "is not computed here"),
        (inferer(roi_size="$1" + " + 1" * 400), "an expression of 1,602 letters"),
        (inferer(roi_size="$9999999999 * 9999999999 * 2"), "a number over 9223372036854775808"),
        (inferer(overlap=10**400), "one share from 0"),
        (inferer(roi_size="@nowhere#1"), "inferer#roi_size: @nowhere#1 leads nowhere"),
        (inferer(roi_size="@inferer#roi_size"), "references that lead in a circle"),
        (inferer(roi_size="%other.json::x"), "the macro %other.json::x"),
        (inferer(roi_size=[32, 32, -1]), "roi_size: [32, 32, -1], expected 3 whole numbers"),
        (inferer(_target_="SimpleInferer"), "'SimpleInferer', expected one of MONAI's Sliding"),
        (inferer(_target_=f"{__name__}.evil"), f"'{__name__}.evil', expected one of MONAI's"),
        (inferer(cval=-1), "inferer.cval: -1, expected 0.0"),
        (inferer(overlap=[0.5, 0.2, 0.5]), "overlap: [0.5, 0.2, 0.5], expected one share"),
        (inferer(speed=1), "SlidingWindowInferer's argument 'speed' is not one that the kit knows"),
        (added("preprocessing", _target_="os.system"), "transforms[0]._target_: 'os.system', exp"),
        (added("preprocessing", _target_="Lambdad", keys="image"), "'Lambdad', expected one of"),
        (added("preprocessing", _target_="Orientationd", keys="image", axcodes="RAS"), "once"),
        (
            step("preprocessing", 0, reader="PILReader"),
            "reader: 'PILReader', expected None or 'ITK",
        ),
        (step("preprocessing", 3, mode="bicubic"), "mode: 'bicubic', expected bilinear or nearest"),
        (step("preprocessing", 3, diagonal=True), "diagonal: True, expected False"),
        (step("preprocessing", 3, pixdim=[1, 1, -1]), "expected 3 positive numbers"),
        (added("postprocessing", _target_="KeepLargestConnectedComponentd", keys="pred"), "'Keep"),
        (step("postprocessing", 2, argmax=False), "threshold: nothing, expected a share"),
        (
            lambda c, m: m["network_data_format"]["outputs"]["pred"].update(num_channels=0),
            "num_channels: 0, expected 1 to 4096",
        ),
        (lambda c, m: c.pop("inferer"), "no 'inferer'"),
        (lambda c, m: c["network_def"].update(channels=[8, 16]), "does not fit the config's UNet"),
        (lambda c, m: c["network_def"].update(colour=1), "arguments that monai's UNet takes"),
    ],
)
def test_what_is_no_data_or_not_done_is_one_line(
    tmp_path: Path, change: Change, words: str
) -> None:
    with pytest.raises(SourceError) as refusal:
        load(bundle(tmp_path / "bundle", change=change))
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path}/bundle")
    assert words in message
    assert message.isprintable()
    assert not RAN


def test_a_crop_before_the_spacing_is_refused(tmp_path: Path) -> None:
    def change(number: int) -> Change:
        crop = {"_target_": "CropForegroundd", "keys": "image", "source_key": "image"}
        return lambda config, metadata: config["preprocessing"]["transforms"].insert(number, crop)

    with pytest.raises(SourceError, match="CropForegroundd after Spacingd"):
        load(bundle(tmp_path / "bundle", change=change(3)))
    with pytest.raises(SourceError, match="'Orientationd', expected it before Spacingd and Crop"):
        load(bundle(tmp_path / "other", change=change(2)))


def test_what_changes_nothing_here_is_not_computed(tmp_path: Path) -> None:
    device = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"

    def change(config: dict[str, Any], metadata: dict[str, Any]) -> None:
        config["device"] = device
        config["inferer"] |= {"sw_device": "@device", "device": device, "progress": "$1 > 0"}
        config["preprocessing"]["transforms"][0] |= {"dtype": "$np.float64", "image_only": "$a()"}
        config["preprocessing"]["transforms"][-1]["device"] = "@device"
        config["postprocessing"]["transforms"][1] |= {"device": "@device", "transform": "$a(b)"}
        config["postprocessing"]["transforms"][-1] |= {"output_dtype": "$np.uint8", "scale": "$f()"}

    plain, found = load(bundle(tmp_path / "plain")), load(bundle(tmp_path / "other", change=change))
    assert found.settings == plain.settings


def test_a_network_that_is_not_built_here_needs_no_arguments(tmp_path: Path) -> None:
    def own(config: dict[str, Any], metadata: dict[str, Any]) -> None:
        config["network_def"] = {"_target_": "scripts.net.MyNet", "space": "$open('x').read()"}

    with pytest.raises(SourceError, match=r"network_def._target_: 'scripts.net.MyNet', expected"):
        load(bundle(tmp_path / "bundle", change=own))


def test_a_step_that_an_expression_switches_off(tmp_path: Path) -> None:
    def change(config: dict[str, Any], metadata: dict[str, Any]) -> None:
        config["fast"] = False
        spacing = config["preprocessing"]["transforms"][3]
        spacing["pixdim"] = "$[1, 1, 1] if @fast else [2, 2, 2]"
        off = {"_target_": "Lambdad", "keys": "image", "_disabled_": "$not @fast"}
        config["preprocessing"]["transforms"].append(off)

    assert load(bundle(tmp_path / "bundle", change=change)).settings["spacing"] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("kind", ["lists", "texts", "items"])
def test_row_46_references_that_explode_are_refused_in_time(tmp_path: Path, kind: str) -> None:
    """Row 46: a config of a kilobyte, whose references become ten at each of eight steps."""

    def change(config: dict[str, Any], metadata: dict[str, Any]) -> None:
        for i in range(8):
            ten = [f"@v{i + 1}"] * 10
            config[f"v{i}"] = ten if kind == "lists" else "$" + " + ".join(ten)
        config["v8"] = "x" * 900 if kind == "texts" else [1]
        config["inferer"]["roi_size"] = "@v0"

    begin = time.process_time()
    with pytest.raises(SourceError, match=r"expand to more than|letters or items together"):
        load(bundle(tmp_path / "bundle", change=change))
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$[1.5, 1.5, 4.0 / 2]", [1.5, 1.5, 2.0]),
        ("$@list + [3]", [1, 2, 3]),
        ("$@list#1 * -2", -4),
        ("$(@number - 1) // 2", 3),
        ("$'a' + 'b'", "ab"),
        ("@nested#deep#0", 2),
        ("$torch.float32", "float32"),
        ("plain", "plain"),
    ],
)
def test_expressions_that_are_data(text: str, value: Any) -> None:
    data = {"list": [1, 2], "number": 8, "nested": {"deep": ["@list#1"]}}
    assert Config(Path("inference.json"), data).resolved(text, "here") == value
