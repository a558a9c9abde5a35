"""Points, masks and angles beside boxes: from a file to an answer, and what the gate says."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from handlers import images
from handlers.context import LocalContext
from handlers.entry import Entry
from handlers.errors import KitError
from handlers.instances import Mask, polygons
from handlers.rectangles import corners
from handlers.runtimes.base import Runtime
from repack import pipeline
from repack.gate import Reference
from repack.model import Arrays, Model
from repack.options import DetectorOptions, Options, SourceOptions
from repack.samples import Sample
from repack.tasks import TASKS
from repack.tasks.base import Comparison
from repack.tasks.detection import compare as detection
from repack.tasks.detection import report
from repack.tasks.instances import compare as instances
from tests.support import exported_detectors as made
from tests.support.loading import model

POSE: dict[str, Any] = {"task": "pose", "kpt_shape": [made.POINTS, 3], "names": ["a", "b", "c"]}
SEGMENT: dict[str, Any] = {"task": "segment", "names": ["a", "b", "c"]}
OBB: dict[str, Any] = {"task": "obb", "names": ["a", "b", "c"]}
FILES = {"pose": ("points", POSE), "instances": ("masks", SEGMENT), "oriented": ("angle", OBB)}


def loaded(task: str, folder: Path, **told: Any) -> Model:
    layout, says = FILES[task]
    return model(made.onnx_file(folder, layout, told={**says, **told}))


@pytest.fixture(scope="module", params=sorted(FILES))
def answering(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An archive of each, packed and loaded: the task, and what answers a picture."""
    folder = tmp_path_factory.mktemp(request.param)
    layout, told = FILES[request.param]
    path = made.onnx_file(folder, layout, told=told)
    options = Options(SourceOptions(path), name="m", model_store=folder, backend="onnxruntime")
    archive = pipeline.repack(options)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder / "out")

    def ask(accept: str = "application/json", wide: int = 1, high: int = 1) -> bytes:
        entry, context = Entry(), LocalContext(folder / "out", headers={"accept": accept})
        entry.initialize(context)
        body = io.BytesIO()
        picture = made.pictures(1)[0].repeat(wide, axis=1).repeat(high, axis=0)
        Image.fromarray(picture).save(body, "PNG")
        (answer,) = entry.handle([{"body": body.getvalue()}], context)
        assert context.statuses == [200]
        return bytes(answer)

    return request.param, ask


@pytest.mark.parametrize(("wide", "high"), [(1, 1), (2, 1), (1, 2)], ids=["", "wide", "high"])
def test_an_answer_has_what_stands_beside_its_boxes(answering: Any, wide: int, high: int) -> None:
    task, ask = answering
    answer = json.loads(ask(wide=wide, high=high))
    width, height = wide * made.SIDE, high * made.SIDE
    assert answer["model"]["task"] == task
    assert len(answer["detections"]) >= 3
    for d in answer["detections"]:
        x1, y1, x2, y2 = d["box"]
        if task == "pose":
            (px, py, seen), (qx, qy, unseen) = d["points"]
            assert seen + unseen == pytest.approx(1, abs=2e-4)
            for point, edge in ((px, x1), (py, y1), (qx, x2), (qy, y2)):
                assert point == pytest.approx(edge, abs=0.02) or edge in (0, width, height)
            continue
        if task == "oriented":
            wanted = np.array([d["corners"]]).clip(0, (width, height))
            least, most = wanted.min((0, 1)), wanted.max((0, 1))
            np.testing.assert_allclose(d["box"], [*least, *most], atol=0.03)
            np.testing.assert_allclose(corners(np.array([d["xywhr"]])), [d["corners"]], atol=0.03)
            continue
        assert d["mask"]["size"] == [height, width]
        assert sum(d["mask"]["counts"]) == width * height
        for outline in d["polygons"]:
            xs, ys = outline[::2], outline[1::2]
            assert min(xs) >= x1 - 1
            assert max(xs) <= x2 + 1
            assert min(ys) >= y1 - 1
            assert max(ys) <= y2 + 1


@pytest.mark.parametrize(("wide", "high"), [(2, 1), (1, 2)], ids=["wide", "high"])
def test_a_mask_lies_where_it_lay_on_the_models_input(
    answering: Any, wide: int, high: int, tmp_path: Path
) -> None:
    task, ask = answering
    if task != "instances":
        return
    given = loaded(task, tmp_path)
    picture = made.pictures(1)[0].repeat(wide, axis=1).repeat(high, axis=0)
    fitted, place = images.letterbox(picture, made.SIDE, made.SIDE)
    answer = given.ask({given.inputs[0].name: fitted[None]})
    rows, _ = detection.both(given, answer, answer, 0)
    answered = json.loads(ask(wide=wide, high=high))["detections"]
    overlaps = []
    for row, d in zip(rows, answered, strict=True):
        here = instances.inside(given, row, answer["protos"][0])
        there = here[round(place.top) : made.SIDE - round(place.top),
                     round(place.left) : made.SIDE - round(place.left)]  # fmt: skip
        there = there.repeat(2, axis=0).repeat(2, axis=1)
        values = np.arange(len(d["mask"]["counts"])) % 2
        mask = np.repeat(values, d["mask"]["counts"]).reshape(d["mask"]["size"][::-1]).T > 0
        if there.sum() > 300:
            overlaps.append((mask & there).sum() / (mask | there).sum())
    assert len(overlaps) >= 2
    assert np.mean(overlaps) > 0.8, overlaps  # a mask of noise has edges everywhere


def test_it_is_drawn(answering: Any) -> None:
    task, ask = answering
    drawn = images.decode(ask("image/jpeg"))
    assert drawn.shape == (made.SIDE, made.SIDE, 3)
    if task == "instances":
        numbers = np.asarray(Image.open(io.BytesIO(ask("image/png"))))
        masks = json.loads(ask())["detections"]
        assert 0 < numbers.max() <= len(masks)


@pytest.mark.parametrize("mode", ["letterbox", "corner", "stretch"])
def test_boxes_lie_on_the_picture_however_it_was_fitted_in(mode: str, tmp_path: Path) -> None:
    path = made.onnx_file(tmp_path, "listed")  # one picture at a time
    asked = DetectorOptions(mode=mode)
    options = Options(
        SourceOptions(path), name="m", model_store=tmp_path, backend="onnxruntime",
        task="detection", detector=asked,
    )  # fmt: skip
    with zipfile.ZipFile(pipeline.repack(options)) as packed:
        packed.extractall(tmp_path / "out")
    entry, context = Entry(), LocalContext(tmp_path / "out", batch_size=2)
    entry.initialize(context)
    body, wide = io.BytesIO(), made.pictures(1)[0].repeat(2, axis=1)
    Image.fromarray(wide).save(body, "PNG")
    answers = entry.handle([{"body": body.getvalue()}] * 2, context)
    assert answers[0] == answers[1]
    height, width = made.SIDE, 2 * made.SIDE
    fitted, place = images.letterbox(wide, made.SIDE, made.SIDE, mode=mode)
    want = made.boxes(fitted[None])[0]
    want = want[np.argsort(-want[:, 4:].max(1), kind="stable")][:20]
    scale, shift = np.array(place[:2]), np.array(place[2:])
    low = ((want[:, :2] - want[:, 2:4] / 2 - shift) / scale).clip(0, (width, height))
    found = np.array([d["box"] for d in json.loads(answers[0])["detections"]])
    confident = want[:, 4:].max(1) > 0.25
    assert confident.sum() >= 3
    np.testing.assert_allclose(found[:, :2], low[confident], atol=0.02)


@pytest.mark.parametrize("task", FILES)
def test_the_gate_notices_what_moved(task: str, tmp_path: Path) -> None:
    given = loaded(task, tmp_path)
    answer = given.ask({given.inputs[0].name: made.pictures()})
    same = TASKS[task].compare(given, "f32", [answer], [answer], [])
    assert not same.failures
    assert same.figures["boxes_compared"] > 5
    moved: Arrays = {k: v.copy() for k, v in answer.items()}
    if task == "pose":
        assert same.figures["points_compared"] > 5
        moved["boxes"][..., 4 + made.CLASSES + 3] += 3
        says = "points: one moved 3.00 px, at most 0.5 px"
    elif task == "oriented":
        assert same.figures["mean_rotated_iou"] == 1
        moved["boxes"][..., -1] += 0.5
        says = "rectangles: mean overlap"
    else:
        assert same.figures["mean_mask_iou"] == 1
        moved["protos"] += 0.1
        says = "masks: mean overlap"
    found = TASKS[task].compare(given, "f32", [answer], [moved], []).failures
    assert any(says in line for line in found)


def test_points_without_confidence_get_one(tmp_path: Path) -> None:
    given = loaded("pose", tmp_path, kpt_shape=[made.POINTS * 3 // 2, 2])
    assert given.settings["head"]["extras"] == 9
    answer = given.ask({given.inputs[0].name: made.pictures()})["boxes"]
    assert (answer[..., 4 + made.CLASSES + 2 :: 3] == 1).all()


def test_points_that_contradict_the_file_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        KitError, match=r"9 values behind a box are not classes and points \(\(5, 3"
    ):
        loaded("pose", tmp_path, kpt_shape=[5, 3])


def test_masks_behind_objectness_are_the_same(tmp_path: Path) -> None:
    asked = made.pictures()
    one = loaded("instances", tmp_path)
    other = model(made.onnx_file(tmp_path, "anchored-masks", told=SEGMENT))
    assert (one.settings["iou"], other.settings["iou"]) == (0.7, 0.45)
    assert one.settings["head"] == other.settings["head"]
    want, have = (m.ask({m.inputs[0].name: asked}) for m in (one, other))
    np.testing.assert_allclose(have["boxes"], np.tile(want["boxes"], (1, 3, 1)), rtol=1e-6)
    np.testing.assert_array_equal(have["protos"], want["protos"])


def test_points_behind_objectness_are_those_of_the_file(tmp_path: Path) -> None:
    given = model(made.onnx_file(tmp_path, "faces"), task="pose")
    answer = given.ask({given.inputs[0].name: made.pictures()})["boxes"]
    rows = np.tile(made.boxes(made.pictures()), (1, 3, 1))
    np.testing.assert_allclose(answer[..., : 4 + made.CLASSES], rows, rtol=1e-4, atol=1e-4)
    points = answer[..., 4 + made.CLASSES :].reshape(*rows.shape[:2], 5, 3)
    want = rows[..., None, :2] + (np.arange(5)[:, None] - 2) * rows[..., None, 2:4] / 4
    np.testing.assert_allclose(points[..., :2], want, rtol=1e-4, atol=1e-3)
    assert (points[..., 2] == 1).all()


def test_a_box_at_an_angle_is_not_stretched(tmp_path: Path) -> None:
    layout, told = FILES["oriented"]
    path = made.onnx_file(tmp_path, layout, told=told)
    with pytest.raises(KitError, match="--resize-mode stretch: a box at an angle is no rectangle"):
        model(path, detector=DetectorOptions(mode="stretch"))


def test_a_layout_of_another_task_is_named(tmp_path: Path) -> None:
    layout, told = FILES["pose"]
    path = made.onnx_file(tmp_path, layout, told=told)
    with pytest.raises(KitError, match="--layout yolox is none of --task pose: there is anchor-f"):
        model(path, detector=DetectorOptions(layout="yolox"))


@pytest.mark.parametrize(
    ("task", "line", "expected"),
    [
        ("pose", "0 .5 .5 .2 .2 .4 .4 2 .6 .6 0", [25.6, 25.6, 38.4, 38.4, 0, 25.6, 25.6, 2, 38.4,
                                                   38.4, 0]),
        ("pose", "0 .5 .5 .2 .2 .4 .4 .6 .6", [25.6, 25.6, 38.4, 38.4, 0, 25.6, 25.6, 2, 38.4, 38.4,
                                               2]),
        ("pose", "0 .5 .5 .2 .2", [25.6, 25.6, 38.4, 38.4, 0]),
        ("pose", "0 .5 .5 .2 .2 .4 .4 2", "x y v of each point, of which the model has 2"),
        ("instances", "1 .4 .3 .6 .3 .6 .5", [25.6, 19.2, 38.4, 32, 1, 25.6, 19.2, 0, 38.4, 19.2, 0,
                                              38.4, 32, 0]),
        ("instances", "1 .4 .3 .6", "expected: class x y x y x y"),
        ("pose", "1 a .3 .6 .2", "expected: class cx cy w h, then x y"),
        ("oriented", "1 .5 .3 .6 .4 .5 .5 .4 .4", [25.6, 19.2, 38.4, 32, 1]),
        ("oriented", "1 .5 .3 .6 .4 .5 .5", "expected: class x1 y1 x2 y2 x3 y3 x4 y4"),
    ],
)  # fmt: skip
def test_labels_are_those_of_yolo(task: str, line: str, expected: Any, tmp_path: Path) -> None:
    given = loaded(task, tmp_path)
    samples = tmp_path / "samples"
    samples.mkdir()
    Image.fromarray(made.pictures(1)[0]).save(samples / "a.png")
    (samples / "a.txt").write_text(line)
    if isinstance(expected, str):
        with pytest.raises(KitError, match=expected):
            TASKS[task].read_samples(samples, given, "--samples")
        return
    (sample,) = TASKS[task].read_samples(samples, given, "--samples")
    assert sample.truth is not None
    np.testing.assert_allclose(sample.truth, [expected], rtol=1e-5)


@pytest.mark.parametrize("where", [".", "labels", "../../labels/val"])
def test_labels_lie_where_yolos_data_sets_have_them(where: str, tmp_path: Path) -> None:
    given = loaded("pose", tmp_path)
    samples = tmp_path / "data" / "images" / "val"
    (samples / where).mkdir(parents=True)
    Image.fromarray(made.pictures(1)[0]).save(samples / "a.png")
    (samples / where / "a.txt").write_text("0 .5 .5 .2 .2")
    (sample,) = TASKS["pose"].read_samples(samples, given, "--samples")
    assert sample.truth is not None
    np.testing.assert_allclose(sample.truth, [[25.6, 25.6, 38.4, 38.4, 0]], rtol=1e-5)


@pytest.mark.parametrize("task", ["pose", "instances", "oriented"])
def test_a_picture_of_nothing_has_an_empty_label_file(task: str, tmp_path: Path) -> None:
    given = loaded(task, tmp_path)
    samples = tmp_path / "samples"
    samples.mkdir()
    Image.fromarray(made.pictures(1)[0]).save(samples / "a.png")
    (samples / "a.txt").write_text("")
    (sample,) = TASKS[task].read_samples(samples, given, "--samples")
    assert sample.truth is not None
    assert sample.truth.shape == (0, 5)


class Unconverted:
    """A runtime that answers as the original."""

    def __init__(self, given: Model):
        self.given = given

    def infer(self, inputs: Arrays, every: bool = False) -> Arrays:
        return self.given.ask(inputs)


@pytest.mark.parametrize("task", sorted(FILES))
def test_the_reports_pictures_show_what_stands_beside_the_boxes(task: str, tmp_path: Path) -> None:
    given = loaded(task, tmp_path)
    inputs = {given.inputs[0].name: made.pictures(1)}
    sample = Sample(tmp_path / "a.png", inputs, None)
    reference = Reference([inputs], [given.ask(inputs)], [sample])
    runtime = cast(Runtime, Unconverted(given))
    (shown,) = TASKS[task].report().pictures(given, runtime, reference)["samples"]
    (plain,) = report.pictures(given, runtime, reference)["samples"]
    assert shown["note"] == plain["note"]
    original, converted = (p["uri"] for p in shown["pictures"])
    assert original == converted
    assert original != plain["pictures"][0]["uri"]


def labelled(task: str, given: Model, folder: Path) -> list[Sample]:
    """Pictures labelled with what the model itself finds surely in them, and one by boxes alone."""
    folder.mkdir()
    pictures = made.pictures(3)
    answer = given.ask({given.inputs[0].name: pictures})
    for i, picture in enumerate(pictures):
        found = detection.both(given, answer, answer, i)[0]
        lines = []
        for row in found[found[:, 4] > 0.3]:
            low, high = row[:2] / made.SIDE, row[2:4] / made.SIDE
            numbers = [*((low + high) / 2), *(high - low)]
            if task == "pose":
                points = row[6:].reshape(-1, 3) / [made.SIDE, made.SIDE, 1]
                numbers += [v for x, y, _ in points for v in (x, y, 2)]
            else:
                inside = instances.inside(given, row, answer["protos"][i])
                outlines = polygons(Mask(0, 0, inside))
                if not outlines:
                    continue
                numbers = [v / made.SIDE for v in max(outlines, key=len)]
            if i == 2:
                numbers = [*((low + high) / 2), *(high - low)]
            lines.append(" ".join(map(str, [int(row[5]), *numbers])))
        Image.fromarray(picture).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("\n".join(lines))
    return TASKS[task].read_samples(folder, given, "--samples")


@pytest.mark.parametrize(
    ("task", "figure"), [("pose", "oks_map"), ("instances", "mask_map")], ids=["OKS", "masks"]
)
def test_precision_of_points_and_masks_is_measured_on_labels(
    task: str, figure: str, tmp_path: Path
) -> None:
    given = loaded(task, tmp_path)
    samples = labelled(task, given, tmp_path / "samples")
    answers = [given.ask(s.inputs) for s in samples]
    moved: list[Arrays] = [{k: v.copy() for k, v in a.items()} for a in answers]
    for one in moved:
        if task == "pose":
            one["boxes"][..., 4 + made.CLASSES :: 3] += 20
        else:
            one["protos"] = one["protos"][..., ::-1].copy()
    result = Comparison()
    kind = TASKS[task].part("compare").precision(given)
    detection.compare_map(given, "f16", answers, moved, samples, result, kind)
    told = result.figures[figure]
    assert told["labelled_samples"] == 2
    # An outline through the middles of a small mask's pixels is smaller than the mask.
    assert told["original"][f"{figure}50"] > (0.8 if task == "pose" else 0.5)
    assert told["converted"][f"{figure}50_95"] < told["original"][f"{figure}50_95"] - 0.1
    assert any(line.startswith(kind.title) for line in result.failures)
    same = TASKS[task].compare(given, "f32", answers, answers, samples)
    assert same.figures[figure]["original"] == same.figures[figure]["converted"]
    assert same.figures["map"]["labelled_samples"] == 3
    assert not same.failures
    limits = TASKS[task].report().limits("f16")
    assert limits[f"{figure}50_95"] == {"points_lost": 0.5}
    without = Comparison()
    detection.compare_map(given, "f16", answers[2:], moved[2:], samples[2:], without, kind)
    assert "no sample has a label file of " in without.figures[figure]


@pytest.mark.parametrize("task", ["pose", "instances"])
def test_what_is_found_in_a_picture_of_nothing_counts_as_false(task: str, tmp_path: Path) -> None:
    given = loaded(task, tmp_path)
    samples = labelled(task, given, tmp_path / "samples")[:2]
    nothing = samples[1].truth
    assert nothing is not None
    emptied = [samples[0], Sample(samples[1].path, samples[1].inputs, nothing[:0])]
    answers = [given.ask(s.inputs) for s in samples]
    beside = TASKS[task].part("compare").precision(given)
    for kind in (detection.OF_BOXES, beside):
        alone, both, none = Comparison(), Comparison(), Comparison()
        detection.compare_map(given, "f32", answers[:1], answers[:1], emptied[:1], alone, kind)
        detection.compare_map(given, "f32", answers, answers, emptied, both, kind)
        detection.compare_map(given, "f32", answers[1:], answers[1:], emptied[1:], none, kind)
        assert both.figures[kind.figure]["labelled_samples"] == 2
        name = f"{kind.figure}50_95"
        before = alone.figures[kind.figure]["original"][name]
        assert both.figures[kind.figure]["original"][name] < before - 0.01
        assert "no sample has a label file of " in none.figures[kind.figure]
