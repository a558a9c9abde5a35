"""Semantic segmentation: from a file to label maps, what the gate says, and what is refused."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from handlers.context import LocalContext
from handlers.entry import Entry
from handlers.errors import KitError
from handlers.passport import Passport
from repack import pipeline
from repack.gate import Reference
from repack.model import Arrays, Model
from repack.options import DetectorOptions, Options, SourceOptions
from repack.samples import Sample
from repack.tasks import TASKS
from repack.tasks.load_test import LoadTest
from repack.tasks.semantic import compare
from repack.tasks.semantic.load_test import HOOKS, label_map
from tests.support.loading import model

HEIGHT, WIDTH, CLASSES = 32, 64, 5
NAMES = ("background", "sky", "road", "tree", "car")


class Net(nn.Module):
    """Scores of each 4x4 pixels, by their colours; what it answers depends on ``ends``."""

    def __init__(self, ends: str, classes: int = CLASSES):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.conv = nn.Conv2d(3, 1 if "one" in ends else classes, 4, 4)
        self.conv.weight = nn.Parameter(torch.randn(self.conv.weight.shape, generator=generator))
        self.conv.bias = nn.Parameter(torch.zeros(len(self.conv.weight)))
        self.ends = ends

    def forward(self, x: Tensor) -> Any:
        return ANSWERS[self.ends](self.conv(x))


ANSWERS: dict[str, Callable[[Tensor], Any]] = {
    "logits": lambda scores: scores,
    "one": torch.sigmoid,
    "one flat logits": lambda scores: scores[:, 0],
    "numbers": lambda scores: nn.functional.interpolate(scores, scale_factor=4).argmax(1),
    "numbers in floats": lambda scores: scores.argmax(1, keepdim=True).float(),
    "auxiliary": lambda scores: {
        "out": nn.functional.interpolate(scores, scale_factor=4),
        "aux": scores * 0.5,
    },
    "with boxes": lambda scores: (scores, scores.flatten(2)),
    "last": lambda scores: scores.permute(0, 2, 3, 1),
}


def onnx_file(folder: Path, ends: str = "logits", **changed: Any) -> Path:
    path = folder / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Net(ends, **changed), (torch.zeros(2, 3, HEIGHT, WIDTH),), path, dynamo=False,
            input_names=["x"], dynamic_axes={"x": {0: "batch"}},
        )  # fmt: skip
    return path


def labels(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    path = folder / "names.txt"
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def loaded(path: Path, names: tuple[str, ...] = NAMES, **asked: Any) -> Model:
    given = labels(path.parent, names) if names else None
    return model(path, "semantic", detector=DetectorOptions(labels=given, **asked))


def pictures(folder: Path, count: int = 2) -> Path:
    """Smooth pictures of 90x70 pixels, as PNG and JPEG."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(2)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
        whole = small.resize((90, 70), Image.Resampling.BICUBIC)
        whole.save(folder / f"{i}.{('png', 'jpg')[i % 2]}")
    return folder


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An archive, packed with labelled samples, and what answers a picture."""
    folder = tmp_path_factory.mktemp("semantic")
    path, samples = onnx_file(folder), pictures(folder / "samples")
    given = loaded(path)
    (samples / "labels").mkdir()
    for sample in TASKS["semantic"].read_samples(samples, given, "--samples"):
        scores = given.ask(sample.inputs)["scores"][0]
        found = compare.at_pictures_size(given, scores, (70, 90))
        found[:9] = 255
        Image.fromarray(found).save(samples / "labels" / f"{sample.path.stem}.png")
    options = Options(
        SourceOptions(path), name="m", model_store=folder, backend="onnxruntime", task="semantic",
        samples=samples, detector=DetectorOptions(labels=labels(folder)),
    )  # fmt: skip
    with zipfile.ZipFile(pipeline.repack(options)) as packed:
        packed.extractall(folder / "out")
    entry = Entry()
    entry.initialize(LocalContext(folder / "out"))

    def ask(accept: str = "application/json", picture: Path = samples / "0.png") -> bytes:
        context = LocalContext(folder / "out", headers={"accept": accept})
        (answer,) = entry.handle([{"body": picture.read_bytes()}], context)
        assert context.statuses == [200], answer
        return bytes(answer)

    return folder, ask


def test_an_answer_has_each_class_and_its_pixels(answering: Any) -> None:
    folder, ask = answering
    answer = json.loads(ask())
    assert answer["model"]["task"] == "semantic"
    assert answer["image"] == {"width": 90, "height": 70}
    assert sum(c["pixels"] for c in answer["classes"]) == 90 * 70
    assert all(NAMES[c["class_id"]] == c["class"] for c in answer["classes"])
    assert len(answer["classes"]) >= 3
    numbers = np.asarray(Image.open(io.BytesIO(ask("image/png"))))
    np.testing.assert_array_equal(numbers, label_map(answer))
    truth = np.asarray(Image.open(folder / "samples" / "labels" / "0.png"))
    np.testing.assert_array_equal(numbers[9:], truth[9:])
    drawn = Image.open(io.BytesIO(ask("image/jpeg")))
    assert drawn.size == (90, 70)


def test_the_gate_measured_both_models_on_the_labels(answering: Any) -> None:
    folder, _ = answering
    figures = Passport.read(folder / "out").gate["accelerated"]["task"]
    assert figures["pixel_agreement"] == 1
    assert figures["mean_iou"] == 1
    assert figures["miou"] == {"labelled_samples": 2, "original": 1.0, "converted": 1.0}
    told = json.loads((folder / "m.report.json").read_text())
    assert told["headline"]["value"] == "mIoU 1.0000"
    assert [p["label"] for p in told["pictures"]["samples"][0]["pictures"]] == [
        "original", "converted", "difference",
    ]  # fmt: skip
    assert {entry["label"] for entry in told["pictures"]["legend"]["classes"]} <= set(NAMES)


def test_the_tester_draws_label_maps_and_how_they_agree(answering: Any, tmp_path: Path) -> None:
    folder, ask = answering
    assert isinstance(HOOKS, LoadTest)
    picture = folder / "samples" / "0.png"
    other = ask(picture=folder / "samples" / "1.jpg")
    answers = {"1 a": [ask()], "2 b": [ask()], "3 c": [other]}
    lines = HOOKS.side_by_side([("0.png", picture.read_bytes())], answers, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert lines[0].startswith("1 a and 3 c: ")
    assert "100.000%" not in lines[0]
    same = HOOKS.agreement(*[[json.loads(ask())]] * 2)
    assert same == "100.000% of the pixels in the same class, mean intersection over union 1.0000"


ENDS = {
    "logits": (None, [CLASSES, 8, 16]),
    "auxiliary": (None, [CLASSES, 32, 64]),
    "numbers": (None, [32, 64]),
    "numbers in floats": (None, [8, 16]),
}


@pytest.mark.parametrize("ends", ENDS)
def test_what_a_file_answers_is_told(ends: str, tmp_path: Path) -> None:
    given = loaded(onnx_file(tmp_path, ends))
    threshold, shape = ENDS[ends]
    assert given.source.labels == NAMES
    assert given.settings["threshold"] == threshold
    assert list(given.outputs[0].shape[1:]) == shape
    kind = "int32" if ends.startswith("numbers") else "float32"
    assert given.outputs[0].dtype == kind
    batch = given.random_inputs(1, batch=3)
    (answer,) = given.ask(batch).values()
    assert str(answer.dtype) == kind
    assert list(answer.shape[1:]) == shape
    assert any("nobody states it: stretch (--resize-mode), ImageNet's" in n for n in given.notes)


@pytest.mark.parametrize(
    ("ends", "names", "threshold", "shown"),
    [
        ("one", ("vessel",), 0.5, ("background", "vessel")),
        ("one flat logits", (), 0.0, ("0", "1")),
        ("one", ("out", "in"), 0.5, ("out", "in")),
    ],
)
def test_one_class_has_a_threshold(
    ends: str, names: tuple[str, ...], threshold: float, shown: tuple[str, ...], tmp_path: Path
) -> None:
    given = loaded(onnx_file(tmp_path, ends), names)
    assert given.settings["threshold"] == threshold
    assert given.source.labels == shown
    assert given.outputs[0].shape[1:] == (1, 8, 16)
    assert any("scores are probabilities (--scores)" in n for n in given.notes) == (ends == "one")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("ends", ["auxiliary", "numbers"])
def test_a_torchscript_file_answers_as_the_onnx_file(ends: str, tmp_path: Path) -> None:
    path = tmp_path / "net.torchscript"
    with torch.no_grad():
        traced = torch.jit.trace(Net(ends), torch.zeros(1, 3, HEIGHT, WIDTH), strict=False)
    torch.jit.save(traced, str(path))
    given = model(
        path, "semantic", input_shapes={"x": ("batch", 3, HEIGHT, WIDTH)},
        detector=DetectorOptions(labels=labels(tmp_path)),
    )  # fmt: skip
    file = loaded(onnx_file(tmp_path, ends))
    batch = given.random_inputs(1, batch=2)
    (one,) = given.ask(batch).values()
    (other,) = file.ask({file.inputs[0].name: next(iter(batch.values()))}).values()
    np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    ("ends", "names", "words"),
    [
        ("last", NAMES, "float32 [2, 8, 16, 5] to a picture of 32x64; expected [N, classes, h, w]"),
        ("with boxes", NAMES, "to a picture of 32x64; expected [N, classes, h, w] of logits"),
        ("logits", NAMES[:3], "3 lines; the model has 5 classes"),
        ("numbers", (), "do not say how many there are: give --labels"),
        ("numbers", NAMES[:2], "but 2 are named"),
    ],
)
def test_answers_that_are_no_classes_are_one_line(
    ends: str, names: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    with pytest.raises(KitError) as refused:
        loaded(onnx_file(tmp_path, ends), names)
    assert words.replace("[2, ", "[1, ") in str(refused.value).replace("[2, ", "[1, ")
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return loaded(onnx_file(tmp_path_factory.mktemp("net")))


def read(folder: Path, given: Model) -> list[Sample]:
    return TASKS["semantic"].read_samples(folder, given, "--samples")


def test_labels_lie_beside_a_picture_of_another_format_or_in_a_folder(
    net: Model, tmp_path: Path
) -> None:
    pictures(tmp_path, 2)
    classes = np.random.default_rng(1).integers(0, CLASSES, (70, 90)).astype(np.uint8)
    palette = Image.fromarray(classes).convert("P")
    palette.putdata(classes.reshape(-1).tolist())
    palette.save(tmp_path / "1.png")
    found = read(tmp_path, net)
    assert [s.path.name for s in found] == ["0.png", "1.jpg"]
    assert found[0].truth is None
    np.testing.assert_array_equal(found[1].truth, classes)
    (tmp_path / "labels").mkdir()
    Image.fromarray(classes * 0).save(tmp_path / "labels" / "0.png")
    assert not np.asarray(read(tmp_path, net)[0].truth).any()


def test_labels_that_do_not_fit_are_one_line(net: Model, tmp_path: Path) -> None:
    pictures(tmp_path, 1)
    (tmp_path / "labels").mkdir()
    path = tmp_path / "labels" / "0.png"
    for made, words in (
        (np.zeros((9, 8), np.uint8), "labels of 8x9 pixels; the picture has 90x70"),
        (np.full((70, 90), 5, np.uint8), "class 5; the model has classes 0 to 4, and 255 is what"),
        (np.zeros((70, 90, 3), np.uint8), "a PNG of RGB; expected one number a pixel"),
    ):
        Image.fromarray(made).save(path)
        with pytest.raises(KitError) as refused:
            read(tmp_path, net)
        assert words in str(refused.value)
    path.write_bytes(b"no picture")
    with pytest.raises(KitError, match="no PNG of labels"):
        read(tmp_path, net)


def test_labels_of_0_and_255_are_not_taken_for_nothing(tmp_path: Path) -> None:
    given = loaded(onnx_file(tmp_path, "one"), ("vessel",))
    folder = pictures(tmp_path / "samples", 2)
    Image.fromarray(np.full((70, 90), 255, np.uint8)).save(folder / "1.png")
    with pytest.raises(KitError, match="no label holds class 1, but 255, which does not count"):
        read(folder, given)


def judged(given: Model, change: Any, samples: list[Sample], asked: str = "f32") -> Any:
    answers = Reference.make(given, samples).answers
    changed: list[Arrays] = [{k: change(v.copy()) for k, v in a.items()} for a in answers]
    return compare.compare(given, asked, answers, changed, samples)


def test_the_gate_counts_pixels_and_what_the_labels_lose(net: Model, tmp_path: Path) -> None:
    samples = read(pictures(tmp_path, 3), net)
    truths = [
        compare.at_pictures_size(net, net.ask(s.inputs)["scores"][0], (70, 90)) for s in samples
    ]
    labelled = [Sample(s.path, s.inputs, t) for s, t in zip(samples, truths, strict=True)]
    assert judged(net, lambda v: v, labelled).failures == []

    def exchanged(values: Any) -> Any:
        values[:, [1, 2], :4] = values[:, [2, 1], :4]
        return values

    found = judged(net, exchanged, labelled, "bf16")
    assert found.figures["pixel_agreement"] < 0.95
    assert found.figures["miou"]["original"] == 1
    assert [line.split(":")[0] for line in found.failures] == ["classes", "classes", "mIoU"]
    alone = judged(net, exchanged, samples)
    assert alone.figures["miou"] == "not compared: no sample has a label file of classes"

    def broken(values: Any) -> Any:
        values[:, 0, 0, 0] = np.nan
        return values

    assert "NaN or infinity" in judged(net, broken, []).failures[0]


def test_mean_iou_is_of_the_classes_that_are_there() -> None:
    real = np.array([[0, 0, 1, 1, 255]], np.uint8)
    found = np.array([[0, 1, 1, 1, 0]], np.uint8)
    table = compare.confusion(real, found, 4)
    assert table.sum() == 4
    np.testing.assert_allclose(compare.ious(table), [1 / 2, 2 / 3, 0, 0])
