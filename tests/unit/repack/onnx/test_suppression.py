"""Decoding and suppression inside the graph give the boxes of ``handlers.boxes.nms``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from handlers import boxes
from handlers.artefact import OPTIONS, Artefact
from handlers.heads import HEADS
from handlers.heads.yolov5 import YOLOv5
from handlers.passport import TensorSpec
from handlers.runtimes import RUNTIMES, make
from repack.onnx import suppression

CONFIDENCE, IOU, LIMIT = 0.25, 0.45, 20
ANCHORS, CLASSES, CELLS = 2, 5, (8, 4)
HEAD = YOLOv5(
    classes=CLASSES,
    anchors=tuple(tuple((float(n * s), float(n * s)) for n in (2, 3)) for s in (16, 32)),
    strides=(16, 32),
)
NAMES = ["near", "far"]

Raw = list[NDArray[np.float32]]
Run = Callable[[Raw], NDArray[np.float32]]


def raw_maps(seed: int, pictures: int) -> Raw:
    """Random raw maps of two scales; boxes overlap, and no two scores are the same."""
    rng = np.random.default_rng(seed)
    found = []
    for cells in CELLS:
        y = rng.normal(0, 1.5, (pictures, ANCHORS, cells, cells, 5 + CLASSES)).astype(np.float32)
        y[..., 4] = rng.normal(-1.5, 2, y.shape[:-1])
        found.append(y)
    return found


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def detect(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A graph of nothing but decoding and suppression, run as an archive would have it."""
    folder = tmp_path_factory.mktemp(str(request.param))
    shapes: list[list[str | int]] = [["batch", ANCHORS, n, n, 5 + CLASSES] for n in CELLS]

    def values(prefix: str) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(prefix + name, TensorProto.FLOAT, shape)
            for name, shape in zip(NAMES, shapes, strict=True)
        ]

    nodes = [helper.make_node("Identity", ["given_" + n], ["raw_" + n]) for n in NAMES]
    graph = helper.make_graph(nodes, "raw", values("given_"), values("raw_"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "plain.onnx")
    suppression.append(folder / "plain.onnx", folder / "model.onnx", HEAD, CONFIDENCE, IOU, LIMIT)
    specs = tuple(
        TensorSpec("given_" + n, "float32", tuple(s)) for n, s in zip(NAMES, shapes, strict=True)
    )
    name = str(request.param)
    artefact = Artefact(name, ("model.onnx",), "f32", {}, "detections", OPTIONS[name]())
    assert name in RUNTIMES
    runtime = make(folder, specs, artefact, threads=1)
    runtime.activate()

    def run(given: Raw) -> NDArray[np.float32]:
        feed = {"given_" + n: v for n, v in zip(NAMES, given, strict=True)}
        (found,) = runtime.infer(feed).values()
        return np.array(found)

    return run


@pytest.mark.parametrize("pictures", [1, 3])
@pytest.mark.parametrize("seed", range(8))
def test_the_graph_gives_the_handlers_boxes(detect: Run, seed: int, pictures: int) -> None:
    given = raw_maps(seed, pictures)
    found = detect(given)
    assert found.shape[1] == 7
    decoded = HEAD.boxes(given)
    for picture in range(pictures):
        expected = boxes.nms(decoded[picture], HEAD, CONFIDENCE, IOU, LIMIT)
        mine = found[found[:, 0] == picture, 1:]
        mine = mine[np.argsort(-mine[:, 4], kind="stable")][:LIMIT]
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-2)
        assert len(set(expected[:, 5])) > 1


def test_pictures_without_boxes_stay_apart(detect: Run) -> None:
    given = raw_maps(1, 3)
    for maps in given:
        maps[1, ..., 4] = -9
    found = detect(given)
    assert set(found[:, 0]) == {0, 2}
    for maps in given:
        maps[..., 4] = -9
    assert detect(given).shape == (0, 7)


def test_every_family_has_its_tail() -> None:
    plain = {name for name, head in HEADS.items() if not (head.ranked or head.angled)}
    assert set(suppression.TAILS) == plain
