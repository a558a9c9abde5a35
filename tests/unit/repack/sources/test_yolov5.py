"""YOLOv5 checkpoints in every layout that is read, and one line for those that are not."""

from __future__ import annotations

import datetime
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repack.networks.yolov5 import SIZES, YOLOv5
from repack.sources import Source, SourceError, UnsupportedLayout
from tests.support.loading import load
from tests.support.pickles import network, save_whole

NAMES = ["cat", "dog"]

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> YOLOv5:
    return network()


def half(module: nn.Module) -> State:
    return {k: v.half() if v.is_floating_point() else v for k, v in module.state_dict().items()}


def assert_same(source: Source, expected: YOLOv5) -> None:
    assert source.module is not None
    found = source.module.state_dict()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype
    assert not source.module.training
    assert not any(p.requires_grad for p in source.module.parameters())


def whole(model: YOLOv5, names: object = None) -> YOLOv5:
    """A copy as training saves it: fp16, the class names on the network."""
    copy = YOLOv5(model.size, model.classes)
    copy.load_state_dict(model.state_dict())
    if names is not None:
        copy.names = names  # type: ignore[assignment]
    return copy.half()


@pytest.mark.parametrize("package", ["", "yolov5.", "ultralytics."])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
def test_a_pickled_whole_model(tmp_path: Path, model: YOLOv5, package: str, legacy: bool) -> None:
    content = {
        "epoch": -1,
        "best_fitness": np.float64(0.5),
        "fitness": np.array([0.5, 0.25]),
        "model": whole(model, dict(enumerate(NAMES))),
        "ema": None,
        "opt": {"weights": Path("a.pt"), "space": Namespace(a=1)},
        "date": datetime.datetime(2026, 1, 1),
        "seen": {1, 2},
        "sizes": torch.Size([1, 2]),
    }
    source = load(save_whole(tmp_path / "official.pt", content, package, legacy))
    assert (source.family, source.network, source.task) == ("yolov5", "yolov5n", "detection")
    assert source.labels == ("cat", "dog")
    assert len(source.sha256) == 64
    assert_same(source, model)


def test_ema_comes_before_model(tmp_path: Path, model: YOLOv5) -> None:
    content = {"model": whole(network(seed=5)), "ema": whole(model), "names": NAMES}
    source = load(save_whole(tmp_path / "last.pt", content))
    assert_same(source, model)
    assert source.labels == ("cat", "dog")


def with_prefix(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        OrderedDict,
        lambda s: {"model": s},
        lambda s: {"state_dict": s, "epoch": 3},
        with_prefix("module."),
        with_prefix("model."),
        with_prefix("model.model."),
        lambda s: {name.removeprefix("model."): t for name, t in s.items()},
    ],
    ids=["plain", "ordered", "model", "state_dict", "parallel", "AutoShape", "twice", "layers"],
)
def test_state_dicts(tmp_path: Path, model: YOLOv5, wrap: Callable[[State], Any]) -> None:
    torch.save(wrap(half(model)), tmp_path / "weights.anything")
    source = load(tmp_path / "weights.anything")
    assert_same(source, model)
    assert source.labels == ("class 0", "class 1")


def test_the_plain_layout_with_anchors_in_pixels(tmp_path: Path, model: YOLOv5) -> None:
    anchors = torch.arange(1, 19).view(3, 3, 2).float() * 8
    content = {
        "family": "yolov5",
        "network": "yolov5n",
        "names": NAMES,
        "anchors": anchors,
        "state_dict": half(model),
    }
    torch.save(content, tmp_path / "shipped.pt")
    source = load(tmp_path / "shipped.pt")
    assert source.module is not None
    strides = torch.tensor([8, 16, 32]).view(3, 1, 1)
    assert torch.equal(source.module.state_dict()["model.24.anchors"] * strides, anchors)
    assert source.labels == ("cat", "dog")


def test_custom_anchors_of_the_checkpoint_decide_the_boxes(tmp_path: Path, model: YOLOv5) -> None:
    state = half(model) | {"model.24.anchors": torch.full((3, 3, 2), 2.0).half()}
    torch.save(state, tmp_path / "custom.pt")
    ours, usual = load(tmp_path / "custom.pt").module, model
    assert ours is not None
    picture = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        ratio = ours(picture)[0, :64, 2] / usual(picture)[0, :64, 2]
    assert torch.allclose(ratio, torch.full_like(ratio, 16 / 10), rtol=1e-4)


@pytest.mark.parametrize("size", ["yolov5s", "yolov5m"])
def test_the_size_is_read_from_the_shapes(tmp_path: Path, size: str) -> None:
    assert size in SIZES
    expected = network(size, classes=1)
    torch.save(half(expected), tmp_path / "x.pt")
    source = load(tmp_path / "x.pt")
    assert source.network == size
    assert_same(source, expected)


def test_loading_leaves_the_random_numbers_alone(tmp_path: Path, model: YOLOv5) -> None:
    torch.save(half(model), tmp_path / "x.pt")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load(tmp_path / "x.pt")
    assert torch.equal(torch.rand(1), expected)


def changed(**changes: Tensor | None) -> Callable[[State], Any]:
    names = {name.replace("__", "."): tensor for name, tensor in changes.items()}

    def apply(state: State) -> State:
        merged = state | {n: t for n, t in names.items() if t is not None}
        return {n: t for n, t in merged.items() if names.get(n, t) is not None}

    return apply


def focus(state: State) -> State:
    return {n.replace("model.0.conv.", "model.0.conv.conv."): t for n, t in state.items()}


def fused(state: State) -> State:
    kept = {n: t for n, t in state.items() if ".bn." not in n}
    return kept | {"model.0.conv.bias": torch.zeros(16)}


ONE = torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (focus, ["Focus", "release 5"]),
        (changed(model__24__anchors=torch.ones(4, 3, 2)), ["P6"]),
        (changed(model__24__dfl__conv__weight=ONE), ["YOLOv8"]),
        (changed(model__24__proto__cv1__conv__weight=ONE), ["segmentation"]),
        (changed(model__9__linear__weight=ONE), ["classification"]),
        (fused, ["fuse"]),
        (changed(model__0__conv__weight=torch.ones(16, 3, 3, 3)), ["kernel [3, 3]"]),
        (changed(model__0__conv__weight=torch.ones(20, 3, 6, 6)), ["20 stem channels"]),
        (changed(model__3__conv__weight=None), ["1 missing", "model.3.conv.weight"]),
        (
            changed(model__3__conv__weight=torch.ones(2, 2)),
            ["model.3.conv.weight is [2, 2], expected [64, 32, 3, 3]"],
        ),
        (changed(model__99__extra=ONE), ["1 unexpected", "model.99.extra [1]"]),
        (changed(model__24__m__0__weight=torch.ones(20, 64, 1, 1)), ["head of 20 channels"]),
        (changed(model__24__anchors=torch.ones(3, 2)), ["dimensions"]),
        (changed(model__24__anchors=None), ["no tensor model.24.anchors"]),
        (lambda s: {"model": s, "names": ["a"]}, ["1 class names", "2 classes"]),
        (lambda s: {"model": s, "names": 7}, ["class names 7"]),
        (lambda s: {"model": s, "names": {0: "a", 5: "b"}}, ["class names"]),
        (lambda s: {"a": 1, "b": {}}, ["'a', 'b'"]),
        (lambda s: [1, 2], ["holds a list"]),
        (lambda s: {"conv1.weight": ONE}, ["--network module:Class", "'conv1.weight' [1]"]),
        (
            lambda s: {"family": "yolov5", "anchors": ONE, "state_dict": s},
            ["anchors [1], expected a tensor [3, n, 2]"],
        ),
    ],
)
def test_an_unsupported_layout_gets_one_line(
    tmp_path: Path, model: YOLOv5, change: Callable[[State], Any], words: list[str]
) -> None:
    path = tmp_path / "other.pt"
    torch.save(change(half(model)), path)
    with pytest.raises(UnsupportedLayout) as refusal:
        load(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    for word in words:
        assert word in message


def relu(layers: Any) -> None:
    layers[3].act = nn.ReLU()


def epsilon(layers: Any) -> None:
    layers[3].bn.eps = 1e-5


def bilinear(layers: Any) -> None:
    layers[11].mode = "bilinear"


def pooling(layers: Any) -> None:
    layers[9].m.kernel_size = 3


def strides(layers: Any) -> None:
    layers[24].stride = torch.tensor([4.0, 8.0, 16.0])


def shortcut(layers: Any) -> None:
    layers[2].m[0].add = False


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (relu, "activation ReLU"),
        (epsilon, "eps 1e-05"),
        (bilinear, "mode bilinear"),
        (pooling, "kernel_size 3"),
        (strides, "strides"),
        (shortcut, "shortcut False"),
    ],
)
def test_settings_that_no_tensor_shows_are_compared(
    tmp_path: Path, model: YOLOv5, change: Callable[[Any], None], word: str
) -> None:
    copy = whole(model)
    change(copy.model)
    with pytest.raises(UnsupportedLayout, match=word):
        load(save_whole(tmp_path / "odd.pt", {"model": copy}))


def test_modules_within_themselves_end(tmp_path: Path, model: YOLOv5) -> None:
    copy = whole(model)
    layers: Any = copy.model
    layers[0].act._modules["again"] = copy
    with pytest.raises(SourceError, match="modules"):
        load(save_whole(tmp_path / "loop.pt", {"model": copy}))
