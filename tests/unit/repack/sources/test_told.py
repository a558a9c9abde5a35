"""What a file says of itself, as exporters write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.errors import KitError
from repack import pipeline
from repack.model import Model
from repack.options import ClassifierOptions, Options, SourceOptions
from repack.sources import told
from tests.support import classifiers
from tests.support import odd_models as odd

JIT = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
NAMES = {i: f"kind {i}" for i in range(5)}
CLASSIFY = {"task": "classify", "imgsz": "[16, 16]", "stride": "1", "names": str(NAMES)}
IMAGENET = [0.485, 0.456, 0.406]


def loaded(path: Path, **options: Any) -> Model:
    return pipeline.load(Options(SourceOptions(path), **options))


def pooled(path: Path, entries: dict[str, str], free: bool = False) -> Path:
    """A classifier of five classes that says something of itself."""
    model = classifiers.pooled(end="Softmax")
    if free:
        sides = model.graph.input[0].type.tensor_type.shape.dim[2:]
        for axis, word in zip(sides, ("height", "width"), strict=True):
            axis.dim_param = word
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    return classifiers.saved(path, model)


@pytest.mark.parametrize(
    ("entries", "fields"),
    [
        (CLASSIFY, {"names": tuple(NAMES.values()), "sides": (16, 16), "stride": 1}),
        (  # YOLOv5's config.txt, which JSON has parsed
            {"shape": [1, 3, 320, 640], "names": {"0": "a", "1": "b"}},
            {"names": ("a", "b"), "sides": (320, 640), "batch": 1},
        ),
        ({"names": "['a', 'b']", "imgsz": "64"}, {"names": ("a", "b"), "sides": (64, 64)}),
        ({"batch": "4", "args": "{'dynamic': False}"}, {"batch": 4}),
        ({"batch": "4", "args": "{'dynamic': True}"}, {"batch": None}),
        ({"mean": "0.5", "std": "0.5,0.25,0.2"}, {"mean": (0.5,) * 3, "std": (0.5, 0.25, 0.2)}),
        ({"character": "'\n0\n[\nb\n"}, {"characters": ("'", "0", "[", "b")}),
    ],
)
def test_entries_in_the_notation_of_their_exporters(
    entries: dict[str, Any], fields: dict[str, Any]
) -> None:
    found = told.read(entries)
    assert not found.unread
    assert {key: getattr(found, key) for key in fields} == fields


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("names", "{0: 'a', 2: 'b'}", "names"),
        ("names", "__import__('os').getcwd()", "names"),
        ("names", "[" * 100_000, "names"),
        ("names", "[1, 2]", "names"),
        ("imgsz", "[0, 64]", "sides"),
        ("imgsz", "large", "sides"),
        ("mean", "[123.7, 116.3, 103.5]", "mean"),
        ("std", "[0.2, 0.0, 0.2]", "std"),
    ],
)
def test_what_is_not_understood_is_named(key: str, value: str, field: str) -> None:
    found = told.read({key: value})
    assert getattr(found, field) == getattr(told.Told(), field)
    assert f"the file's own {key!r} is" in found.unread[field]
    assert "\n" not in found.unread[field]


def test_a_classifier_of_ultralytics_is_prepared_as_it_was_trained(tmp_path: Path) -> None:
    model = loaded(pooled(tmp_path / "m.onnx", CLASSIFY))
    assert model.task == "classification"
    assert model.source.labels == tuple(NAMES.values())
    settings = model.settings
    assert (settings["mean"], settings["std"]) == ([0, 0, 0], [1, 1, 1])
    assert (settings["resize"], settings["crop"], settings["scores"]) == (16, 16, "probabilities")
    assert model.notes == ()


def test_what_nobody_states_is_assumed_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pooled(tmp_path / "m.onnx", {})
    model = loaded(path, task="classification")
    assert model.settings["mean"] == IMAGENET
    said = capsys.readouterr().err
    for words in ("ImageNet's mean", "ImageNet's standard deviation", "--resize", "--labels"):
        assert any(words in line for line in model.notes)
        assert words in said
    told_all = ClassifierOptions(mean=(0.5,) * 3, std=(0.5,) * 3, resize=20)
    assert len(loaded(path, task="classification", classifier=told_all).notes) == 1


def test_normalising_is_the_files_own_where_the_user_says_nothing(tmp_path: Path) -> None:
    path = pooled(tmp_path / "m.onnx", {"mean": "[0.1, 0.2, 0.3]", "std": "0.25"})
    settings = loaded(path, task="classification").settings
    assert (settings["mean"], settings["std"]) == ([0.1, 0.2, 0.3], [0.25] * 3)
    own = ClassifierOptions(mean=(0.5,) * 3)
    assert loaded(path, task="classification", classifier=own).settings["mean"] == [0.5] * 3
    odd_mean = pooled(tmp_path / "o.onnx", {"mean": "[123.7, 116.3, 103.5]"})
    with pytest.raises(KitError, match=r"own 'mean' is .* give --mean of values 0 to 1"):
        loaded(odd_mean, task="classification")
    assert loaded(odd_mean, task="classification", classifier=own).settings["mean"] == [0.5] * 3


def test_names_that_contradict_the_classes_are_refused(tmp_path: Path) -> None:
    path = pooled(tmp_path / "m.onnx", CLASSIFY | {"names": "['a', 'b']"})
    with pytest.raises(KitError, match="it names 2 classes itself; the model has 5 classes"):
        loaded(path)
    labels = tmp_path / "labels.txt"
    labels.write_text("v\nw\nx\ny\nz\n")
    assert loaded(path, classifier=ClassifierOptions(labels)).source.labels == (*"vwxyz",)


def test_names_in_a_file_beside_the_model(tmp_path: Path) -> None:
    path, beside = pooled(tmp_path / "m.onnx", {}), tmp_path / told.INDEX
    beside.write_text(json.dumps({str(i): ["n0", name] for i, name in NAMES.items()}))
    model = loaded(path, task="classification")
    assert model.source.labels == tuple(NAMES.values())
    assert any(str(beside) in line for line in model.notes)
    beside.write_text('["a"]')
    with pytest.raises(KitError, match=r"index_to_name.json: 1 names; the model has 5 classes"):
        loaded(path, task="classification")


@pytest.mark.parametrize(
    "text",
    [
        '{"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"}',
        '{"1": ["n1", "b"], "0": ["n0", "a"], "2": ["c"], "3": "d", "4": "e"}',
        '["a", "b", "c", "d", "e"]',
    ],
)
def test_labels_in_torchserves_own_form(tmp_path: Path, text: str) -> None:
    labels = tmp_path / "names.json"
    labels.write_text(text)
    model = loaded(
        pooled(tmp_path / "m.onnx", {}),
        task="classification",
        classifier=ClassifierOptions(labels),
    )
    assert model.source.labels == (*"abcde",)


@pytest.mark.parametrize("text", ["{", '{"a": "b"}', '{"1": "b"}', "[]", "[1, 2]", "3"])
def test_labels_of_another_form_are_named(tmp_path: Path, text: str) -> None:
    labels = tmp_path / "names.json"
    labels.write_text(text)
    path = pooled(tmp_path / "m.onnx", {})
    with pytest.raises(KitError, match=r"--labels .*names.json: .*expected .\"0\": \"cat\""):
        loaded(path, task="classification", classifier=ClassifierOptions(labels))


def test_free_sides_are_those_that_the_file_states(tmp_path: Path) -> None:
    path = pooled(tmp_path / "m.onnx", CLASSIFY | {"task": "depth"}, free=True)
    model = loaded(path)
    assert model.inputs[0].shape == ("batch", 3, 16, 16)
    assert "the input is x=batchx3x16x16, as the file says" in model.notes
    assert any("its task is 'depth'" in line for line in model.notes)
    assert loaded(path, task="classification").settings["crop"] == 16
    shape: tuple[int | str, ...] = ("batch", 3, "height", "width")
    assert loaded(path, input_shapes={"x": shape}).inputs[0].shape == shape


@JIT
def test_a_torchscript_file_says_the_same_in_its_config(tmp_path: Path) -> None:
    config = {"task": "classify", "imgsz": [16, 16], "batch": 1, "names": {"0": "a", "1": "b"}}
    config["names"] |= {"2": "c", "3": "d"}  # type: ignore[operator]
    path = odd.traced(tmp_path / "m.pt", odd.Scores(), torch.zeros(1, 3, 16, 16))
    module = torch.jit.load(str(path))
    torch.jit.save(module, str(path), _extra_files={"config.txt": json.dumps(config)})
    model = loaded(path)
    assert (model.task, model.source.labels) == ("classification", (*"abcd",))
    assert model.inputs[0].shape == (1, 16, 16, 3)
    assert model.settings["mean"] == [0, 0, 0]
