"""Checkpoints of YOLOv8 and YOLO11: the real package's answers, and what cannot be built."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repack.networks.described import Described, Unknown
from repack.sources import UnsupportedLayout, ultralytics
from repack.sources.checkpoint import read_checkpoint
from repack.sources.weights import Weights, find_weights
from tests.support.loading import load, model

DATA = Path(__file__).parents[3] / "data"
NAMES = ("yolov8n", "yolo11n")


def checkpoint(name: str, folder: Path) -> Path:
    path = folder / f"{name}.pt"
    path.write_bytes(lzma.decompress((DATA / f"{name}_tiny.pt.xz").read_bytes()))
    return path


def held(name: str, folder: Path) -> tuple[Path, Weights, dict[str, Any]]:
    path = checkpoint(name, folder)
    weights = find_weights(path, read_checkpoint(path))
    told = ultralytics.description(weights)
    assert told is not None
    return path, weights, dict(deepcopy(told))


@pytest.mark.parametrize("name", NAMES)
def test_answers_equal_those_of_the_real_package(name: str, tmp_path: Path) -> None:
    source = load(checkpoint(name, tmp_path))
    assert (source.network, source.task) == (name, "detection")
    assert source.labels == ("circle", "square", "triangle")
    assert (source.told.sides, source.told.stride) == ((96, 96), 32)
    assert source.module is not None
    with np.load(DATA / f"{name}_tiny.npz") as data:
        given, theirs = torch.from_numpy(data["inputs"]).float() / 255, data["answer"]
    with torch.no_grad():
        ours = source.module(given).numpy()
    assert theirs.shape == ours.shape == (2, 7, 126)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
    assert 0.25 < theirs[:, 4:].max() < 1


@pytest.mark.parametrize(
    ("name", "task"),
    [("yolov8n-seg", "instances"), ("yolov8n-pose", "pose"), ("yolov8n-obb", "oriented")],
)
def test_masks_points_and_angles_equal_those_of_the_real_package(
    name: str, task: str, tmp_path: Path
) -> None:
    source = load(checkpoint(name, tmp_path))
    assert (source.network, source.task) == (name, task)
    assert source.told.points == ((17, 3) if task == "pose" else None)
    assert source.module is not None
    with np.load(DATA / f"{name}_tiny.npz") as data:
        given, theirs = torch.from_numpy(data["inputs"]).float() / 255, data["answer"]
        protos = data["protos"]
    with torch.no_grad():
        found = source.module(given)
    rows = found[0] if task == "instances" else found
    np.testing.assert_allclose(rows.numpy(), theirs, rtol=1e-4, atol=1e-4)
    if task == "instances":
        np.testing.assert_allclose(found[1][:, ::8].numpy(), protos, rtol=1e-4, atol=1e-4)


def test_a_classifier_answers_the_probabilities_of_the_real_package(tmp_path: Path) -> None:
    path = checkpoint("yolov8n-cls", tmp_path)
    source = load(path)
    assert (source.network, source.task) == ("yolov8n-cls", "classification")
    assert (source.told.sides, source.told.stride) == ((96, 96), None)
    with np.load(DATA / "yolov8n-cls_tiny.npz") as data:
        given, theirs = data["inputs"], data["answer"]
    assert source.module is not None
    with torch.no_grad():
        ours = source.module(torch.from_numpy(given).float() / 255).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert 0.34 < theirs.max() < 1
    served = model(path)  # values 0 to 1 as they are, the centre of a short side of 96 pixels
    assert served.source.labels == ("circle", "square", "triangle")
    asked = {k: served.settings[k] for k in ("resize", "crop", "mean", "std", "scores")}
    want = (96, 96, [0, 0, 0], [1, 1, 1], "probabilities")
    assert asked == dict(zip(asked, want, strict=True))
    assert not any("assumed" in note for note in served.notes)
    pixels = np.tile(given.transpose(0, 2, 3, 1), (1, 2, 1, 1))[:, :96]
    (answer,) = served.ask({served.inputs[0].name: np.ascontiguousarray(pixels)}).values()
    with torch.no_grad():
        whole = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        np.testing.assert_allclose(answer, source.module(whole).numpy(), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_detector_of_the_size_it_was_trained_at(name: str, tmp_path: Path) -> None:
    given = model(checkpoint(name, tmp_path))
    assert given.task == "detection"
    assert given.inputs[0].shape == ("batch", 96, 96, 3)
    assert given.settings["head"] == {"name": "scored", "classes": 3, "extras": 0}
    answer = given.ask(given.random_inputs(1))["boxes"]
    assert answer.shape == (1, 189, 7)


def changed(told: dict[str, Any], row: int, **entries: Any) -> None:
    rows = told["backbone"]
    names = ("reads", "times", "kind", "numbers")
    rows[row] = [entries.get(k, v) for k, v in zip(names, rows[row], strict=True)]


ODD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "kind": (lambda t: changed(t, 2, kind="A2C2f"), "a layer 'A2C2f' with"),
    "numbers": (lambda t: changed(t, 0, numbers=[64, "3", 2]), "a layer 'Conv' with"),
    "more numbers": (lambda t: changed(t, 9, numbers=[1024, 5, 3]), "a layer 'SPPF' with"),
    "reads itself": (lambda t: changed(t, 3, reads=3), "layer 3 that reads 3"),
    "reads a text": (lambda t: changed(t, 3, reads="x"), "a layer that reads 'x'"),
    "often": (lambda t: changed(t, 2, times=10**6), "a layer, 1000000 times"),
    "wide": (lambda t: changed(t, 2, numbers=[10**9, True]), ""),
    "scale": (lambda t: t.update(scale="q"), "scale 'q'"),
    "width": (lambda t: t.update(scales={"n": [0.3, 1e9, 64]}), "depth 0.3 and width 1000000000.0"),
    "grey": (lambda t: t.update(channels=1), "1 channels of input"),
    "end to end": (lambda t: t.update(end2end=True), "a head that chooses its boxes itself"),
    "no head": (lambda t: t.pop("head"), "no head"),
    "no points": (
        lambda t: t["head"][-1].__setitem__(slice(2, 4), ["Pose", ["nc", "kpt_shape"]]),
        "a head 'Pose' with",
    ),
    "many": (
        lambda t: t["head"][-1].__setitem__(slice(2, 4), ["Segment", ["nc", 10**6, 8]]),
        "a head 'Segment' with",
    ),
    "a row": (lambda t: t["head"].append(5), "a row 5 of the head"),
    "two angles": (
        lambda t: t["head"][-1].__setitem__(slice(2, 4), ["OBB", ["nc", 2]]),
        "a head 'OBB' with",
    ),
    "no classifier": (
        lambda t: t["head"][-1].__setitem__(slice(2, 4), ["Classify", ["nc", 3]]),
        "a head 'Classify' with",
    ),
    "another head": (lambda t: t["head"].pop(), "a head 'C2f'"),
}


@pytest.mark.parametrize("how", ODD)
def test_a_description_that_is_not_built_is_one_line(how: str, tmp_path: Path) -> None:
    path, weights, told = held("yolov8n", tmp_path)
    change, says = ODD[how]
    change(told)
    with pytest.raises(UnsupportedLayout) as refused:
        ultralytics.load(path, weights, told)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    if says:
        assert "yolo export model=yolov8n.pt format=onnx" in str(refused.value)


def test_another_width_does_not_fit_the_tensors(tmp_path: Path) -> None:
    path, weights, told = held("yolov8n", tmp_path)
    told["scales"] = {"n": [0.33, 0.25, 1024]}
    with pytest.raises(UnsupportedLayout, match="does not fit its own description"):
        ultralytics.load(path, weights, told)


@pytest.mark.parametrize("size", ["n", "s", "m", "l", "x"])
def test_every_size_is_built(size: str, tmp_path: Path) -> None:
    _, _, told = held("yolo11n", tmp_path)
    told["scales"] = {size: [0.5, 0.125, 512]}
    told["scale"] = size
    block = Described(told, 3).model[2].state_dict()
    assert ("m.0.cv3.conv.weight" in block) == (size in "mlx")


def test_a_network_that_ends_in_something_else_is_named() -> None:
    row = [-1, 1, "Conv", [8, 3, 2]]
    with pytest.raises(Unknown, match="a last layer 'Conv', no head"):
        Described({"backbone": [row], "head": [row]}, 1)
