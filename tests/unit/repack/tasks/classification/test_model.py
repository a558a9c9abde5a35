"""Classifiers on the way into an archive: what is asked, what is found out, and the gate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from handlers.context import LocalContext
from handlers.entry import Entry
from handlers.errors import KitError
from repack import archive
from repack.backends import BACKENDS
from repack.backends.conversion import Conversion
from repack.candidates import Candidate, try_one
from repack.gate import GateResult, Reference
from repack.model import Model
from repack.options import SHIPPED
from repack.tasks import TASKS
from tests.support import classifiers, made
from tests.support.loading import classifier, load

ORT = Candidate("onnxruntime", "f32")


def model_of(path: Path, **options: Any) -> Model:
    return classifier(load(path), **options)


def gate(model: Model, tmp_path: Path, asked: Candidate = ORT) -> GateResult:
    """Builds one artefact and compares it; fails on whatever keeps it from running."""
    candidate = Candidate(asked.backend, asked.precision)
    conversion = Conversion(model, tmp_path / "work")
    try_one(candidate, conversion, Reference.make(model, []))
    assert candidate.proof is not None, candidate.error
    return candidate.proof.gate


@pytest.mark.parametrize("nhwc", [False, True], ids=["NCHW", "NHWC"])
def test_both_layouts_answer_like_the_original(tmp_path: Path, nhwc: bool) -> None:
    path = classifiers.saved(tmp_path / "a.onnx", classifiers.pooled(nhwc))
    model = model_of(path, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    assert model.task == "classification"
    assert model.inputs[0].shape == ("batch", 16, 16, 3)
    assert model.settings["resize"] == round(16 * 256 / 224)
    assert gate(model, tmp_path).failures == []
    pixels = np.random.default_rng(5).integers(0, 256, (4, 16, 16, 3), np.uint8)
    means = (pixels.mean((1, 2)) / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.3]
    matrix = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    (found,) = model.ask({model.inputs[0].name: pixels}).values()
    np.testing.assert_allclose(found, means @ matrix, rtol=0, atol=1e-4)


def test_red_is_the_first_channel(tmp_path: Path) -> None:
    graph = classifiers.pooled()
    chosen = np.eye(3, 5, dtype=np.float32)
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(chosen, "matrix"))
    model = model_of(classifiers.saved(tmp_path / "a.onnx", graph), mean=(0, 0, 0))
    pixels = np.zeros((1, 16, 16, 3), np.uint8)
    pixels[..., 0] = 255
    (found,) = model.ask({"pixels": pixels}).values()
    assert found[0].argmax() == 0


@pytest.mark.parametrize("nhwc", [False, True], ids=["NCHW", "NHWC"])
def test_one_channel_is_the_luma(tmp_path: Path, nhwc: bool) -> None:
    path = classifiers.saved(tmp_path / "a.onnx", classifiers.pooled(nhwc, channels=1))
    assert any("nobody states it: mean 0 (--mean), deviation 1" in n for n in model_of(path).notes)
    model = model_of(path, mean=(0.4,) * 3, std=(0.2,) * 3)
    assert model.inputs[0].shape == ("batch", 16, 16, 3)
    assert model.settings["luma"] == [0.299, 0.587, 0.114]
    assert gate(model, tmp_path).failures == []
    pixels = np.random.default_rng(5).integers(0, 256, (4, 16, 16, 3), np.uint8)
    means = ((pixels @ [0.299, 0.587, 0.114]).mean((1, 2)) / 255 - 0.4) / 0.2
    matrix = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    (found,) = model.ask({model.inputs[0].name: pixels}).values()
    np.testing.assert_allclose(found, means[:, None] * matrix, rtol=0, atol=1e-4)
    assert "but --mean is 0.1,0.2,0.3; expected one value" in _refusal(path, mean=(0.1, 0.2, 0.3))


@pytest.mark.parametrize("batch", ["batch", 3])
def test_a_file_in_half_is_taken(tmp_path: Path, batch: int | str) -> None:
    file = classifiers.pooled(batch=batch, dtype=np.float16)
    model = model_of(classifiers.saved(tmp_path / "a.onnx", file), mean=(0,) * 3, std=(1,) * 3)
    assert (model.inputs[0].dtype, model.outputs[0].dtype) == ("uint8", "float32")
    assert gate(model, tmp_path).failures == []
    pixels = np.random.default_rng(5).integers(0, 256, (4, 16, 16, 3), np.uint8)
    matrix = numpy_helper.to_array(file.graph.initializer[0]).astype(float)
    (found,) = model.ask({model.inputs[0].name: pixels}).values()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pixels.mean((1, 2)) / 255 @ matrix, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("end", "asked", "found"),
    [
        ("", "auto", "logits"),
        ("Softmax", "auto", "probabilities"),
        ("Sigmoid", "probabilities", "probabilities"),
        ("Sigmoid", "logits", "logits"),
    ],
)
def test_what_the_model_answers(tmp_path: Path, end: str, asked: str, found: str) -> None:
    path = classifiers.saved(tmp_path / "a.onnx", classifiers.pooled(end=end))
    assert model_of(path, scores=asked).settings["scores"] == found


def test_a_fixed_batch_is_freed_where_the_graph_allows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of(classifiers.resnet_onnx(batch=4))
    assert model.inputs[0].shape == ("batch", 64, 64, 3)
    assert "fixed at batch 4; any batch gives the same answers" in capsys.readouterr().err
    assert gate(model, tmp_path).failures == []


def test_a_reshape_to_the_fixed_batch_is_freed_too(tmp_path: Path) -> None:
    file = classifiers.pooled(batch=4)
    pool, classify = file.graph.node
    pool.attribute[0].i = 1
    del file.graph.node[:]
    pool.output[0] = "kept"
    target = numpy_helper.from_array(np.array([4, 3], np.int64), "target")
    file.graph.initializer.append(target)
    reshape = onnx.helper.make_node("Reshape", ["kept", "target"], ["means"], "flat")
    file.graph.node.extend([pool, reshape, classify])
    model = model_of(classifiers.saved(tmp_path / "a.onnx", file))
    assert model.inputs[0].shape[0] == "batch"
    assert gate(model, tmp_path).failures == []


def test_a_batch_fixed_inside_stays_and_is_filled_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = classifiers.pooled(batch=3, fixed_inside=True)
    path = classifiers.saved(tmp_path / "a.onnx", model)
    flags: list[str | Path] = [
        *classifiers.FLAGS,
        "--weights",
        path,
        "--name",
        "kinds",
        "--samples",
        made.PICTURES,
    ]
    done = made.repack(*flags, "--model-store", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fixed at batch 3; batches are filled up to that" in done.stderr
    record = archive.unpack(tmp_path / "kinds.mar", tmp_path / "out")
    assert record.inputs[0].shape == (3, 16, 16, 3)
    assert record.gate["accelerated"]["inputs"] == {"random": 3, "samples": 12}
    entry = Entry()
    context = LocalContext(tmp_path / "out")
    entry.initialize(context)
    rows = [{"body": p.read_bytes()} for p in sorted(made.PICTURES.glob("*.jpg"))[:4]]
    answers = [json.loads(a)["classes"] for a in entry.handle(rows, context)]
    assert context.statuses == [200] * 4
    assert json.loads(entry.handle(rows[3:], context)[0])["classes"] == answers[3]


JIT = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@JIT
@pytest.mark.parametrize("asked", [Candidate("torchscript", "f32"), Candidate("openvino", "bf16")])
def test_a_module_takes_pixels_too(tmp_path: Path, asked: Candidate) -> None:
    path = tmp_path / "net.pt"
    torch.save(classifiers.network().state_dict(), path)
    model = classifier(load(path, "tests.support.classifiers:Small"), crop=64)
    assert model.inputs[0].shape == ("batch", 64, 64, 3)
    lack = BACKENDS[asked.backend].lacks(asked.precision)
    if lack:
        pytest.skip(lack)
    assert gate(model, tmp_path, asked).failures == []


@JIT
def test_a_torchscript_file_is_exported_behind_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / "net.torchscript"
    with torch.no_grad():
        traced = torch.jit.trace(classifiers.network(), torch.zeros(1, 3, 64, 64))
    torch.jit.save(traced, str(path))
    model = model_of(path, crop=64)
    for asked in (Candidate("torchscript", "f32"), ORT):
        assert gate(model, tmp_path / asked.backend, asked).failures == []


def _refusal(path: Path, **options: Any) -> str:
    with pytest.raises(KitError) as caught:
        model_of(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    assert "expected one output [2, classes]" in _refusal(made.tiny_onnx())
    sigmoid = classifiers.saved(tmp_path / "a.onnx", classifiers.pooled(end="Sigmoid"))
    assert "do not add up to 1: say what they are with --scores" in _refusal(sigmoid)
    model = classifiers.pooled()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "channels"
    path = classifiers.saved(tmp_path / "b.onnx", model)
    words = "x float32 ['batch', 'channels', 16, 16]; expected one float32 or float16 inp"
    assert words in _refusal(path)
    net = classifiers.resnet_onnx()
    assert "takes pictures of 64x64; expected squares of --crop 32" in _refusal(net, crop=32)
    assert "--resize 50 is smaller than the 64 pixels" in _refusal(net, resize=50)
    assert "is made for detection: leave --task and --labels out" in _refusal(SHIPPED)


def test_labels_must_fit(tmp_path: Path) -> None:
    net, path = classifiers.resnet_onnx(), tmp_path / "labels.txt"
    assert "cannot be read (No such file" in _refusal(net, labels=path)
    path.write_text("a\nb\n")
    assert "2 lines; the model has 10 classes" in _refusal(net, labels=path)
    path.write_text("a\n\n" + "b\n" * 8)
    assert "line 2: empty; expected a class name" in _refusal(net, labels=path)
    path.write_bytes(b"\xff\xfe\x00" * 10)
    assert "cannot be read (not UTF-8 text)" in _refusal(net, labels=path)
    path.write_text("\ufeff" + "".join(f"kind {i}, n\u00b0 {i}\r\n" for i in range(10)), "utf-8")
    assert model_of(net, labels=path).source.labels[:2] == ("kind 0, n° 0", "kind 1, n° 1")
    assert model_of(net).source.labels == tuple("0123456789")


def test_samples_in_class_folders_have_their_truth(tmp_path: Path) -> None:
    model = model_of(classifiers.resnet_onnx(), labels=classifiers.labels())
    pictures = sorted(made.PICTURES.glob("*.jpg"))
    for folder, picture in zip(("kind 4", "7", "."), pictures, strict=False):
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(picture, tmp_path / folder)
    read = TASKS["classification"].read_samples
    found = read(tmp_path, model, "--samples")
    assert [None if s.truth is None else s.truth.tolist() for s in found] == [None, [7], [4]]
    assert found[0].inputs["pixels"].shape == (1, 64, 64, 3)
    (tmp_path / "kind 4").rename(tmp_path / "sort 4")
    with pytest.raises(KitError, match=r"sort 4: no class 'sort 4'; expected a line of --labels"):
        read(tmp_path, model, "--samples")


def test_the_archive_answers_by_name(tmp_path: Path) -> None:
    record = archive.unpack(classifiers.archive(), tmp_path)
    assert (record.task, len(record.labels)) == ("classification", 10)
    assert record.handler == "handlers.classification:ClassificationHandler"
    assert record.settings["crop"] == 64
    assert record.settings["mean"] == [0.485, 0.456, 0.406]
    assert record.gate["accelerated"]["task"]["same_first_class"] == 1
    entry, context = Entry(), LocalContext(tmp_path)
    entry.initialize(context)
    rows = [{"body": p.read_bytes()} for p in sorted(made.PICTURES.glob("*.jpg"))[:5]]
    together = [json.loads(a) for a in entry.handle(rows, context)]
    for row, answer in zip(rows, together, strict=True):
        (alone,) = entry.handle([row], context)
        assert [c["class"] for c in answer["classes"]] == [
            c["class"] for c in json.loads(alone)["classes"]
        ]
        values = [c["probability"] for c in answer["classes"]]
        assert values == sorted(values, reverse=True)
        assert len(values) == 3
        assert answer["classes"][0]["class"].startswith("kind ")
