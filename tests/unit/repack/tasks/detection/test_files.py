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
from tests.support import odd_models
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


def test_queries_with_a_class_number_are_those_with_scores(tmp_path: Path) -> None:
    """Later releases choose the best pairs in the graph: [N, K, 6], as end-to-end exports have, but
    shares of the picture in place of pixels."""
    files = (made.onnx_file(tmp_path, f"{kind}queries") for kind in ("", "best-"))
    scored, best = (loaded(path, DetectorOptions()) for path in files)
    assert best.settings["resize_mode"] == "stretch"
    pixels = {best.inputs[0].name: made.pictures()}
    want, have = scored.ask(pixels), best.ask(pixels)
    np.testing.assert_allclose(have["boxes"], want["boxes"], atol=1e-3)


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


def luma(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey pictures in 0..1, in each of three channels."""
    grey = pixels.astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    return np.repeat(grey[..., None], 3, 3).astype(np.float32)


@pytest.mark.parametrize("opset", [11, 17])
def test_a_network_of_one_channel_gets_the_luma(opset: int, tmp_path: Path) -> None:
    network = made.Grey("anchor-free")
    given = loaded(made.onnx_file(tmp_path, "anchor-free", opset, network=network, channels=1))
    assert given.inputs[0].shape == ("batch", 64, 64, 3)
    assert given.settings["luma"] == [0.299, 0.587, 0.114]
    assert any("one channel: pictures become their luma" in note for note in given.notes)
    pixels = made.pictures()
    want = made.boxes_of(luma(pixels))
    name, session = given.inputs[0].name, graph(given, tmp_path / "work")
    (have,) = session.run(["boxes"], {name: pixels})
    gpu = Conversion(given, tmp_path / "gpu").gpu_model
    planes = ort.InferenceSession(str(gpu.onnx), providers=["CPUExecutionProvider"])
    (there,) = planes.run(["boxes"], gpu.feed({name: pixels}))
    for found in (given.ask({name: pixels})["boxes"], have, there):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-3)
    with pytest.raises(KitError, match=r"takes one grey channel, but --mean is 0\.1,0\.2,0\.3"):
        loaded(given.source.path, DetectorOptions(mean=(0.1, 0.2, 0.3)))


@pytest.mark.parametrize("layout", ["anchor-free", "detr", "end-to-end"])
def test_a_file_in_half_is_taken_as_it_is(layout: str, tmp_path: Path) -> None:
    given = loaded(made.half(made.onnx_file(tmp_path, layout)))
    assert any("the file takes float16: pictures are norm" in note for note in given.notes)
    name, pixels = given.inputs[0].name, made.pictures()
    whole = loaded(made.onnx_file(tmp_path, layout)).ask({name: pixels})["boxes"]
    want, have = given.ask({name: pixels})["boxes"], run(graph(given, tmp_path / "a"), name, pixels)
    gpu = Conversion(given, tmp_path / "b").gpu_model
    planes = ort.InferenceSession(str(gpu.onnx), providers=["CPUExecutionProvider"])
    for found in (have, planes.run(["boxes"], gpu.feed({name: pixels}))[0]):
        (same,) = matched([{"boxes": want}], [{"boxes": found}], ["boxes"])
        assert same["boxes"].dtype == want.dtype == np.float32
        np.testing.assert_allclose(same["boxes"], want, rtol=1e-3, atol=0.07)
    (near,) = matched([{"boxes": whole}], [{"boxes": want}], ["boxes"])
    np.testing.assert_allclose(near["boxes"], whole, atol=0.2)


def run(session: ort.InferenceSession, name: str, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    found: NDArray[Any] = session.run(["boxes"], {name: pixels})[0]
    return found


def test_a_module_in_half_is_taken_as_it_is(tmp_path: Path) -> None:
    given = loaded(
        made.torchscript_file(tmp_path, "anchor-free", dtype=torch.float16), DetectorOptions(64)
    )
    pixels = made.pictures()
    assert given.module is not None
    with torch.no_grad():
        have = given.module(torch.from_numpy(pixels)).numpy()
    want = given.ask({"images": pixels})["boxes"]
    assert want.dtype == have.dtype == np.float32
    np.testing.assert_allclose(have, want, rtol=1e-3, atol=0.07)
    np.testing.assert_allclose(want, made.boxes(pixels), atol=0.2)


@pytest.mark.parametrize(
    ("quiet", "free"),
    [(False, False), (False, True), (True, False)],
    ids=["fixed", "said to be free", "nothing found in noise"],
)
def test_boxes_chosen_for_one_picture_are_asked_for_one_by_one(
    quiet: bool, free: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = made.FirstAlone(quiet)
    given = loaded(made.onnx_file(tmp_path, "end-to-end", free=free, network=network))
    assert given.inputs[0].shape == (1, 64, 64, 3)
    assert "run one by one" in capsys.readouterr().err
    session, pixels = graph(given, tmp_path / "work"), made.pictures(3)
    name = given.inputs[0].name
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument):
        session.run(["boxes"], {name: pixels})
    each = [session.run(["boxes"], {name: p[None]})[0] for p in pixels]
    want = given.ask({name: pixels})["boxes"]
    (have,) = matched([{"boxes": want}], [{"boxes": np.concatenate(each)}], ["boxes"])
    np.testing.assert_allclose(have["boxes"], want, rtol=1e-4, atol=1e-3)
    assert np.abs(each[0] - each[1]).max() > 1


def test_a_module_traced_for_one_picture_is_asked_for_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made.torchscript_file(tmp_path, "end-to-end", made.FirstAlone(False), batch=1)
    given = loaded(path, DetectorOptions(64))
    assert given.inputs[0].shape[0] == 1
    assert "they run one by one" in capsys.readouterr().err


def test_labels_of_classes_that_noise_does_not_show(tmp_path: Path) -> None:
    """Rows of boxes and class numbers do not say how many classes there are."""
    names = tmp_path / "names.txt"
    names.write_text("".join(f"kind {i}\n" for i in range(80)))
    asked = DetectorOptions(labels=names)
    given = loaded(made.onnx_file(tmp_path, "end-to-end"), asked)
    assert (len(given.source.labels), heads.required(given.settings).classes) == (80, 80)
    names.write_text("a\n")
    with pytest.raises(KitError, match="1 lines; the model has 3 classes"):
        loaded(made.onnx_file(tmp_path, "end-to-end"), asked)


def test_a_head_that_fits_no_layout_says_what_came_and_what_is_known(tmp_path: Path) -> None:
    path = made.onnx_file(tmp_path, "objectness", network=torch.nn.Conv2d(3, 7, 8, 8))
    with pytest.raises(KitError) as refused:
        loaded(path)
    line = str(refused.value)
    assert "answers output0 [1, 7, 8, 8] to a picture of 64x64, which is no layout of" in line
    assert all(f"{name} [" in line for name in made.LAYOUTS)
    assert "\n" not in line


@pytest.mark.parametrize("sides", [(64, 64), (96, 32), (32, 160)])
def test_a_file_of_any_size_is_packed_for_the_one_that_is_asked(
    sides: tuple[int, int], tmp_path: Path
) -> None:
    given = loaded(made.onnx_file(tmp_path, "anchor-free", sides=None), DetectorOptions(sides))
    assert given.inputs[0].shape == ("batch", *sides, 3)
    pixels = np.resize(made.pictures(), (2, *sides, 3))
    name = given.inputs[0].name
    have = run(graph(given, tmp_path / "work"), name, pixels)
    np.testing.assert_allclose(have, made.boxes(pixels), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("asked", "told", "says"),
    [
        (100, {"stride": 32}, "--imgsz 100x100: expected multiples of 32, the network's stride"),
        (8192, {}, "--imgsz 8192x8192: expected at most 4096"),
        (
            100,
            {},
            "; the size is no multiple of 32: use --task tensors",
        ),
    ],
)
def test_a_size_that_is_none_of_the_files_is_one_line(
    asked: int, told: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = made.onnx_file(tmp_path, "anchor-free", sides=None, told=told)
    with pytest.raises(KitError) as refused:
        loaded(path, DetectorOptions(asked))
    assert says in str(refused.value)


def test_a_size_that_the_network_does_not_do_is_one_line(tmp_path: Path) -> None:
    path = odd_models.halved_and_doubled(tmp_path / "a.onnx")
    with pytest.raises(KitError, match=r"65: .*: --imgsz 65 is a size that the file does not do$"):
        loaded(path, DetectorOptions(65))
