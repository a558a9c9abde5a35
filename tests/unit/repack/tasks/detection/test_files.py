"""Detectors of ONNX and TorchScript files: told by their outputs, their boxes those of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from handlers import heads
from handlers.boxes import nms
from handlers.errors import KitError
from handlers.heads.rows import Scored
from repack.backends.conversion import Conversion
from repack.gate import Reference
from repack.model import Model
from repack.onnx import appended
from repack.options import DetectorOptions
from repack.rows import matched
from repack.tasks.detection.metrics import match
from tests.support import exported_detectors as made
from tests.support.loading import model

ASKED = {"task": "detection"}
PLAIN = DetectorOptions(mode="letterbox", mean=(0, 0, 0), std=(1, 1, 1))
"""``detr`` has normalising that nobody states; this detector has none."""


def loaded(path: Path, asked: DetectorOptions = PLAIN) -> Model:
    return model(path, **ASKED, detector=asked)


def expected(rows: NDArray[np.float32], given: Model, **changed: float) -> NDArray[np.float32]:
    """The boxes that a caller should get of one picture."""
    s = {**given.settings, **changed}
    head = Scored(classes=made.CLASSES)
    return nms(rows, head, s["confidence"], s["iou"], s["max_detections"])


def graph(given: Model, folder: Path) -> ort.InferenceSession:
    """The graph that ONNX Runtime and OpenVINO serve."""
    path = Conversion(given, folder).onnx_file()
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("layout", made.LAYOUTS)
def test_the_graph_answers_the_boxes_of_the_file(layout: str, tmp_path: Path) -> None:
    asked = DetectorOptions() if layout == "yolox" else PLAIN
    given = loaded(made.onnx_file(tmp_path, layout), asked)
    head = heads.required(given.settings)
    assert any(f"told by the layout {layout}:" in note for note in given.notes)
    pixels = made.pictures(1 if layout == "listed" else 2)
    whole = made.boxes(pixels, bgr=layout == "yolox")
    session = graph(given, tmp_path / "work")
    answer = dict(
        zip(
            (o.name for o in session.get_outputs()),
            session.run(None, {given.inputs[0].name: pixels}),
            strict=True,
        )
    )
    np.testing.assert_allclose(answer["boxes"], given.ask({given.inputs[0].name: pixels})["boxes"],
                               rtol=1e-4, atol=1e-4)  # fmt: skip
    for i, rows in enumerate(whole):
        want = expected(rows, given)
        assert len(want) >= 3
        if head.ranked:
            limits = (given.settings[k] for k in ("confidence", "iou", "max_detections"))
            have = nms(answer["boxes"][i], head, *limits)
            want = expected(rows, given, iou=1.0)
        else:
            have = answer["detections"]
            have = have[have[:, 0] == i][:, 1:]
        if layout in ("queries", "detr"):  # shares end at the picture's border
            middle = (want[:, :2] + want[:, 2:4]) / 2
            within = (middle < made.SIDE).all(1) & (want[:, 2:4] - want[:, :2] < made.SIDE).all(1)
            want = want[within & (middle > 0).all(1)]
        if layout == "listed":
            want = want[:20]
        found = match(want, have, iou=0.99)
        assert found.matched == len(want)
        assert found.box_px < 1e-3
        assert found.confidence < 1e-5


@pytest.mark.parametrize("layout", made.LAYOUTS)
def test_a_gpu_gets_the_same_rows_from_planes(layout: str, tmp_path: Path) -> None:
    given = loaded(made.onnx_file(tmp_path, layout), DetectorOptions())
    asked = Conversion(given, tmp_path / "work").gpu_model
    session = ort.InferenceSession(str(asked.onnx), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert len(onnx.load(asked.onnx or "").opset_import) == 1
    ((name, shape),) = asked.shapes.items()
    assert (taken.name, tuple(taken.shape[1:])) == (name, shape[1:])
    assert [o.name for o in session.get_outputs()] == list(asked.outputs)
    pixels = {given.inputs[0].name: made.pictures(1 if layout == "listed" else 2)}
    want, have = given.ask(pixels)["boxes"], session.run(["boxes"], asked.feed(pixels))[0]
    if given.sorts:
        have = matched([{"boxes": want}], [{"boxes": have}], ["boxes"])[0]["boxes"]
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("layout", ["anchor-free", "detr"])
def test_a_module_gives_a_gpu_the_same_rows(layout: str, tmp_path: Path) -> None:
    given = loaded(made.torchscript_file(tmp_path, layout), DetectorOptions(made.SIDE))
    asked = Conversion(given, tmp_path / "work").gpu_model
    pixels = {given.inputs[0].name: made.pictures()}
    assert asked.module is not None
    with torch.no_grad():
        (planes,) = asked.feed(pixels).values()
        have = asked.module(torch.from_numpy(planes)).numpy()
    want = given.ask(pixels)["boxes"]
    if given.sorts:
        have = matched([{"boxes": want}], [{"boxes": have}], ["boxes"])[0]["boxes"]
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
def test_operators_of_older_versions_are_added_in_their_own(opset: int, tmp_path: Path) -> None:
    given = loaded(made.onnx_file(tmp_path, "anchor-free", opset))
    session = graph(given, tmp_path / "work")
    (found,) = session.run(["detections"], {given.inputs[0].name: made.pictures(1)})
    want = expected(made.boxes(made.pictures(1))[0], given)
    np.testing.assert_allclose(found[np.argsort(-found[:, 5])][:, 1:], want, atol=1e-3)


def test_operators_of_a_version_that_lacks_some_are_named(tmp_path: Path) -> None:
    file = onnx.load(made.onnx_file(tmp_path, "anchor-free", 11))
    file.opset_import[0].version = 10
    answer = np.zeros((1, 7, made.CELLS), np.float32)
    with pytest.raises(KitError, match="operators are of version 10: export it with 11 or later"):
        appended.append(file, torch.nn.Identity(), [answer], ["boxes"], free=True)


@pytest.mark.parametrize("layout", ["anchor-free", "queries", "detr"])
def test_torchscript_answers_as_onnx_does(layout: str, tmp_path: Path) -> None:
    one, two = (
        loaded(f(tmp_path, layout), DetectorOptions(made.SIDE, mean=(0,) * 3, std=(1,) * 3))
        for f in (made.onnx_file, made.torchscript_file)
    )
    pixels = made.pictures()
    first, second = (m.ask({m.inputs[0].name: pixels})["boxes"] for m in (one, two))
    np.testing.assert_allclose(first, second, atol=1e-4)
    assert two.module is not None
    assert two.settings == one.settings


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    names = {0: "a", 1: "b", 2: "c"}
    told = {"task": "detect", "names": names, "imgsz": [64, 64], "stride": 32}
    given = model(made.onnx_file(tmp_path, "anchor-free", told=told))
    assert (given.task, given.source.labels) == ("detection", ("a", "b", "c"))
    assert given.settings["iou"] == 0.7
    assert given.settings["resize_mode"] == "letterbox"
    assert not any("assumed" in note for note in given.notes)


def test_a_file_for_one_picture_is_asked_for_any_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = loaded(made.onnx_file(tmp_path, "anchor-free", free=False))
    assert given.inputs[0].shape == ("batch", 64, 64, 3)
    assert "the file is fixed at batch 1; any batch gives the same" in capsys.readouterr().err
    assert len(Reference.make(given, []).answers[0]["boxes"]) == 2


def test_what_nobody_states_is_a_note(tmp_path: Path) -> None:
    given = loaded(made.onnx_file(tmp_path, "detr"), DetectorOptions())
    assert any(
        "assumed, because nobody states it: stretch (--resize-mode)" in n for n in given.notes
    )
    given = loaded(
        made.onnx_file(tmp_path, "detr"),
        DetectorOptions(mode="corner", mean=(0,) * 3, std=(1,) * 3),
    )
    assert not any("assumed" in note for note in given.notes)
    assert given.settings["resize_mode"] == "corner"


@pytest.mark.parametrize(
    ("told", "asked", "says"),
    [
        ({"names": ["a", "b"]}, {}, "it names 2 classes itself; the model has 3 classes"),
        ({}, {"imgsz": 96}, "takes pictures of 64x64, not of --imgsz 96"),
        ({"stride": 48}, {}, "--imgsz 64x64: expected multiples of 48, the network's stride"),
        (
            {},
            {"layout": "yolox"},
            "no layout of --task detection that the kit knows (yolox [N, cells, 5",
        ),
        ({}, {"labels": Path("none.txt")}, "--labels none.txt: cannot be read"),
    ],
)
def test_what_contradicts_the_file_is_one_line(
    told: dict[str, Any], asked: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = made.onnx_file(tmp_path, "anchor-free", told=told)
    with pytest.raises(KitError) as refused:
        loaded(path, DetectorOptions(**asked))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
