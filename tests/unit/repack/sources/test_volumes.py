"""Plain nets of volumes: their YAML, checked key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from torch import nn

from repack.onnx import export
from repack.options import Options
from repack.raw_tensors import tensors
from repack.sources import SourceError
from repack.tasks.segmentation.model import INPUT, OUTPUT, make
from tests.support.loading import load

GOOD: dict[str, Any] = {
    "channels": [
        {
            "name": "CT",
            "normalisation": {"kind": "ct", "lower": -9, "upper": 9, "mean": 1, "std": 2},
        },
        {
            "name": "PET",
            "normalisation": {
                "kind": "scale_range",
                "a_min": 0,
                "a_max": 9,
                "b_min": 0,
                "b_max": 1,
            },
        },
    ],
    "labels": ["background", "ball"],
    "patch": [4, 8, 8],
    "spacing": [3, 1, 1.5],
}


class Net(nn.Module):
    """Two channels in, two out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(x)
        return result


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(2)
    return Net().eval()


@pytest.fixture(scope="module")
def state_dict(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "net.pt"
    torch.save(net.state_dict(), path)
    return path


def written(folder: Path, content: Any) -> Path:
    path = folder / "volumes.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_state_dict_with_network_and_yaml(tmp_path: Path, net: Net, state_dict: Path) -> None:
    source = load(state_dict, f"{__name__}:Net", volumes=written(tmp_path, GOOD))
    assert (source.task, source.labels) == ("segmentation", ("background", "ball"))
    settings = source.settings
    assert settings["framework"] == "plain"
    assert settings["spacing"] == [3.0, 1.0, 1.5]
    assert settings["channels"][0]["normalisation"]["upper"] == 9.0
    assert settings["channels"][1]["normalisation"]["clip"] is False
    assert settings["windows"] == {"overlap": 0.5, "gaussian": True, "sigma": 0.125, "mirror": []}
    assert settings["answer"] == {"kind": "argmax"}
    model = make(source, Options())
    windows = model.random_inputs(1, 3)
    with torch.no_grad():
        expected = net(torch.from_numpy(windows[INPUT])).numpy()
    assert np.array_equal(model.ask(windows)[OUTPUT], expected)


def test_every_key_arrives(tmp_path: Path, state_dict: Path) -> None:
    more = {
        **GOOD,
        "orientation": "LPS",
        "transpose": [2, 1, 0],
        "crop": "nonzero",
        "answer": {"sigmoid_threshold": 0.4},
        "resampling": {"data": 1, "logits": 0},
        "overlap": 0.25,
        "gaussian": False,
        "mirror": [2, 0],
    }
    settings = load(state_dict, f"{__name__}:Net", volumes=written(tmp_path, more)).settings
    assert (settings["orientation"], settings["transpose_forward"]) == ("LPS", [2, 1, 0])
    assert settings["crop"] == "nonzero"
    assert settings["answer"] == {"kind": "sigmoid_threshold", "threshold": 0.4}
    assert [settings["resampling"][k]["order"] for k in ("data", "logits")] == [1, 0]
    assert settings["windows"]["overlap"] == 0.25
    assert settings["windows"]["gaussian"] is False
    assert settings["windows"]["mirror"] == [0, 2]


NESTED = {
    **GOOD,
    "labels": ["background", "core", "whole"],
    "answer": {"sigmoid_threshold": 0.5, "order": ["whole", "core"]},
}


def test_an_order_of_labels_is_one_of_channels(tmp_path: Path, state_dict: Path) -> None:
    settings = load(state_dict, f"{__name__}:Net", volumes=written(tmp_path, NESTED)).settings
    assert settings["answer"]["written"] == [1, 0]
    given = {**NESTED, "answer": {"sigmoid_threshold": 0.5}}
    settings = load(state_dict, f"{__name__}:Net", volumes=written(tmp_path, given)).settings
    assert "written" not in settings["answer"]


def test_onnx_gets_the_kits_names(tmp_path: Path, net: Net, state_dict: Path) -> None:
    path = tmp_path / "net.onnx"
    plain = tensors(load(state_dict, f"{__name__}:Net"), {"scan": ("batch", 2, 4, 8, 8)})
    export.convert(plain, path)
    model = make(load(path, volumes=written(tmp_path, GOOD)), Options())
    windows = model.random_inputs(1, 3)
    with torch.no_grad():
        expected = net(torch.from_numpy(windows[INPUT])).numpy()
    assert np.allclose(model.ask(windows)[OUTPUT], expected, atol=1e-5)
    assert model.write_onnx is not None
    model.write_onnx(tmp_path / "named.onnx")
    named = onnx.load(tmp_path / "named.onnx")
    onnx.checker.check_model(named)
    assert [i.name for i in named.graph.input] == [INPUT]
    assert [o.name for o in named.graph.output] == [OUTPUT]


def without(key: str) -> Any:
    return {k: v for k, v in GOOD.items() if k != key}


def normalised(**values: Any) -> Any:
    channel = {"name": "CT", "normalisation": values}
    return {**GOOD, "channels": [channel]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [", "no YAML"),
        ("- 1", "holds a list, expected a mapping"),
        ("a: &x [1]\nb: *x", "an alias"),
        ("!!python/object/apply:os.system ['true']", "no YAML"),
        ({**GOOD, "spaceing": [1, 1, 1]}, "unknown key 'spaceing'; known are channels, labels"),
        (without("patch"), "'patch' is missing"),
        (without("labels"), "'labels' is missing"),
        ({**GOOD, "patch": [4, 8]}, "spacing: [3, 1, 1.5], expected 2 positive numbers"),
        ({**GOOD, "patch": [4, 8, 0]}, "patch: [4, 8, 0], expected 2 or 3 whole numbers"),
        ({**GOOD, "patch": [4, 8, True]}, "patch: [4, 8, True], expected"),
        ({**GOOD, "spacing": [1, 1, -1]}, "expected 3 positive numbers"),
        ({**GOOD, "spacing": [1, 1, float("nan")]}, "expected 3 positive numbers"),
        ({**GOOD, "labels": ["one"]}, "labels: ['one'], expected at least two names"),
        ({**GOOD, "orientation": "RAR"}, "orientation: 'RAR', expected such as RAS"),
        ({**GOOD, "transpose": [0, 1]}, "transpose: [0, 1], expected an order of 0, 1 and 2"),
        ({**GOOD, "crop": "body"}, "crop: 'body', expected one of null, nonzero"),
        ({**GOOD, "overlap": 1}, "overlap: 1.0, expected a share"),
        ({**GOOD, "gaussian": "yes"}, "gaussian: 'yes', expected true or false"),
        ({**GOOD, "mirror": [3]}, "mirror: [3], expected a list of axes from 0 to 2"),
        ({**GOOD, "resampling": {"data": 9}}, "resampling.data: 9.0, expected a spline order"),
        ({**GOOD, "resampling": {"date": 1}}, "resampling: unknown key 'date'"),
        ({**GOOD, "answer": {"threshold": 1}}, "answer: unknown key 'threshold'"),
        ({**GOOD, "answer": "softmax"}, "answer: 'softmax', expected a mapping"),
        (
            {**NESTED, "answer": {"sigmoid_threshold": 0.5, "order": ["whole"]}},
            "answer.order: ['whole'], expected each of core, whole once",
        ),
        (normalised(kind="hu"), "channels[0].normalisation.kind: 'hu', expected one of ct"),
        (normalised(kind="ct", lower=1, upper=2, mean=0), "channels[0].normalisation: 'std' is"),
        (normalised(kind="zscore", mean=1), "channels[0].normalisation: unknown key 'mean'"),
    ],
)
def test_a_mistake_in_the_yaml_is_one_line(
    tmp_path: Path, state_dict: Path, content: Any, words: str
) -> None:
    with pytest.raises(SourceError) as refusal:
        load(state_dict, f"{__name__}:Net", volumes=written(tmp_path, content))
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path}/volumes.yaml: ")
    assert words in message
    assert message.isprintable()


def test_a_yaml_that_is_not_there(tmp_path: Path, state_dict: Path) -> None:
    with pytest.raises(SourceError, match=r"none.yaml: cannot be read \(No such file"):
        load(state_dict, f"{__name__}:Net", volumes=tmp_path / "none.yaml")
