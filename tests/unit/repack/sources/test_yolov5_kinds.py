"""YOLOv5 checkpoints beside detectors of releases 6 and 7: the real package's answers."""

from __future__ import annotations

import lzma
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from handlers.heads.yolov5 import YOLOv5
from repack.networks.class_heads import Classify
from repack.options import IMAGENET_MEAN, DetectorOptions
from repack.sources import UnsupportedLayout, yolov5_kinds
from repack.sources.checkpoint import read_checkpoint
from repack.sources.weights import find_weights
from tests.support.loading import load, model

DATA = Path(__file__).parents[3] / "data"
TASKS = {
    "yolov5n6": "detection",
    "yolov5n-seg": "instances",
    "yolov5n-cls": "classification",
    "yolov5n-r3": "detection",
    "yolov5n-face": "pose",
}


def checkpoint(name: str, folder: Path) -> Path:
    path = folder / f"{name}.pt"
    path.write_bytes(lzma.decompress((DATA / f"{name}_tiny.pt.xz").read_bytes()))
    return path


def reference(name: str) -> tuple[torch.Tensor, Any]:
    with np.load(DATA / f"{name}_tiny.npz") as data:
        given = torch.from_numpy(data["inputs"]).permute(0, 3, 1, 2).float() / 255
        return given, {k: data[k] for k in data.files if k != "inputs"}


@pytest.mark.parametrize("name", TASKS)
def test_answers_equal_those_of_the_real_package(name: str, tmp_path: Path) -> None:
    source = load(checkpoint(name, tmp_path))
    assert (source.family, source.task) == ("yolov5", TASKS[name])
    faces = name == "yolov5n-face"
    assert source.labels == (("face",) if faces else ("circle", "square", "triangle"))
    assert source.told.points == ((5, 2) if faces else None)
    assert source.told.stride == {"yolov5n6": 64, "yolov5n-cls": None}.get(name, 32)
    given, theirs = reference(name)
    assert source.module is not None
    with torch.no_grad():
        found = source.module(given)
    ours = found if isinstance(found, tuple) else (found,)
    np.testing.assert_allclose(ours[0].numpy(), theirs["answer"], rtol=1e-4, atol=1e-3)
    assert theirs["answer"].std() > 0.1
    if len(ours) > 1:
        np.testing.assert_allclose(ours[1][:, ::8].numpy(), theirs["protos"], rtol=1e-4, atol=1e-4)


def test_activations_are_those_of_the_file(tmp_path: Path) -> None:
    source = load(checkpoint("yolov5n-r3", tmp_path))
    assert source.module is not None
    found = {type(m) for m in source.module.modules() if "modules.activation" in type(m).__module__}
    assert found == {nn.Hardswish, nn.LeakyReLU}
    slopes = {m.negative_slope for m in source.module.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.1}


def test_faces_have_their_points(tmp_path: Path) -> None:
    """Between objectness and class in the network's rows; behind the class in the answer's."""
    given = model(checkpoint("yolov5n-face", tmp_path), detector=DetectorOptions(64))
    assert given.task == "pose"
    assert given.settings["head"]["extras"] == 15
    assert given.settings["iou"] == 0.45
    pixels = given.random_inputs(1)
    answer = given.ask(pixels)["boxes"]
    (taken,) = pixels.values()
    source = load(checkpoint("yolov5n-face", tmp_path))
    assert source.module is not None
    with torch.no_grad():
        planes = torch.from_numpy(taken).permute(0, 3, 1, 2).float() / 255
        rows = source.module(planes).numpy()
    np.testing.assert_allclose(answer[..., 4], rows[..., 4] * rows[..., 15], rtol=1e-4)
    points = answer[..., 5:].reshape(*answer.shape[:2], 5, 3)
    np.testing.assert_allclose(
        points[..., :2].reshape(rows[..., 5:15].shape), rows[..., 5:15], rtol=1e-4, atol=1e-3
    )
    assert (points[..., 2] == 1).all()


@pytest.mark.parametrize("name", ["yolov5n6", "yolov5n-seg"])
def test_boxes_are_rows_of_scores(name: str, tmp_path: Path) -> None:
    given = model(checkpoint(name, tmp_path), detector=DetectorOptions(64))
    assert given.task == TASKS[name]
    assert given.settings["iou"] == 0.45
    extras = 32 if name == "yolov5n-seg" else 0
    assert {k: given.settings["head"][k] for k in ("classes", "extras")} == {
        "classes": 3,
        "extras": extras,
    }
    answer = given.ask(given.random_inputs(1))
    assert answer["boxes"].shape[2] == 7 + extras


def test_a_classifier_is_normalised_as_it_was_trained(tmp_path: Path) -> None:
    given = model(checkpoint("yolov5n-cls", tmp_path))
    asked = given.settings
    assert (asked["resize"], asked["crop"], asked["scores"]) == (224, 224, "logits")
    assert asked["mean"] == list(IMAGENET_MEAN)
    assert not any("assumed" in note for note in given.notes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t["head"][-1][3].append(1), "a head 'Detect' with anchors and"),
        (lambda t: t.update(anchors="many"), "a head 'Detect'"),
        (lambda t: t["backbone"][8].__setitem__(3, [1024, [5, 9, 0]]), "pooling by [5, 9, 0]"),
        (lambda t: t["backbone"][8].__setitem__(3, [1024, 5]), "a layer 'SPP' with"),
        (lambda t: t["backbone"][0].__setitem__(3, [64, "3"]), "a layer 'Focus' with"),
    ],
)
def test_a_description_that_is_not_built_is_one_line(
    change: Any, says: str, tmp_path: Path
) -> None:
    path = checkpoint("yolov5n-r3", tmp_path)
    weights = find_weights(path, read_checkpoint(path))
    told = deepcopy(yolov5_kinds.description(path, weights))
    change(told)
    with pytest.raises(UnsupportedLayout) as refused:
        yolov5_kinds.load(path, weights, told or {})
    assert says in str(refused.value)
    assert "releases 3 to 7" in str(refused.value)


def test_detectors_of_releases_6_and_7_keep_their_own_way(tmp_path: Path) -> None:
    path = tmp_path / "n.pt"
    path.write_bytes(lzma.decompress((DATA / "yolov5n_official.pt.xz").read_bytes()))
    weights = find_weights(path, read_checkpoint(path))
    assert yolov5_kinds.description(path, weights) is None
    assert model(path).settings["head"]["name"] == YOLOv5.name


def test_the_head_of_a_classifier_answers_either() -> None:
    head = Classify(3, 8).eval()
    x = torch.rand(2, 8, 4, 4)
    with torch.no_grad():
        probabilities = head(x)
        head.softmax = False
        torch.testing.assert_close(head(x).softmax(1), probabilities)
