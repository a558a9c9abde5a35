"""The gate: a conversion that answers differently is not packed, however little shows of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from handlers.heads.yolov5 import YOLOv5
from handlers.passport import TensorSpec
from repack import backends
from repack.backends.base import Found
from repack.backends.conversion import Conversion
from repack.candidates import Candidate, try_one
from repack.gate import GateResult, Reference, _count, check
from repack.model import Arrays, Model
from repack.onnx import export
from repack.raw_tensors import tensors
from repack.samples import Sample
from repack.sources import Source
from repack.tasks.base import Comparison
from repack.tasks.detection.compare import compare
from repack.tolerances import TOLERANCES, shortfall
from tests.support import made

Damage = Callable[[Path], None]


def small() -> Model:
    torch.manual_seed(5)
    module = made.TinyNet().eval().requires_grad_(False)
    module.second.weight *= 20
    source = Source(module, "state_dict", "Tiny", (), made.tiny_onnx(), "0" * 64, "tensors")
    return tensors(source, {"x": ("batch", 3, 8, 8)})


def tried(
    given: Model,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Damage,
    asked: str = "f32",
) -> Candidate:
    """An ONNX Runtime candidate whose file was damaged between conversion and comparison."""
    convert = export.convert

    def damaged(one: Model, path: Path) -> None:
        convert(one, path)
        damage(path)

    monkeypatch.setattr(export, "convert", damaged)
    candidate = Candidate("onnxruntime", asked)
    try_one(candidate, Conversion(given, folder), Reference.make(given, []))
    return candidate


def weights(change: Callable[[NDArray[Any]], None]) -> Damage:
    """Changes the first convolution's weights in an ONNX file."""

    def damage(path: Path) -> None:
        model = onnx.load(path)
        tensor = max(model.graph.initializer, key=lambda t: np.prod(t.dims))
        values = numpy_helper.to_array(tensor).copy()
        change(values)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, path)

    return damage


def one_weight(values: NDArray[Any]) -> None:
    values[0, 0, 0, 0] += 0.05


def one_nan(values: NDArray[Any]) -> None:
    values[0, 0, 0, 0] = np.nan


def swapped_channels(values: NDArray[Any]) -> None:
    values[[0, 1]] = values[[1, 0]]


def test_an_honest_conversion_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = tried(small(), tmp_path, monkeypatch, lambda path: None)
    assert candidate.passed, candidate.verdict
    gate = candidate.proven().gate
    assert gate.inputs == {"random": 3, "samples": 0}
    assert gate.outputs["output"]["max_abs"] < 1e-5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (one_weight, "values outside rtol 0.0001, atol 0.0009"),
        (swapped_channels, "values outside rtol 0.0001, atol 0.0009"),
        (one_nan, "NaN or infinity where the original has numbers"),
    ],
)
def test_a_damaged_conversion_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[NDArray[Any]], None],
    words: str,
) -> None:
    candidate = tried(small(), tmp_path, monkeypatch, weights(change))
    assert not candidate.passed
    assert words in candidate.verdict
    assert "\n" not in candidate.verdict


class Shifted:
    """A runtime that answers like the original, ``by`` off in each value."""

    name = "torchscript"
    precision = "f32"

    def __init__(self, original: Callable[[Arrays], Arrays], by: Callable[[Any], Any]):
        self.original, self.by = original, by

    def infer(self, inputs: Arrays, every: bool = False) -> Arrays:
        return {k: self.by(v) for k, v in self.original(inputs).items()}


def gate(
    monkeypatch: pytest.MonkeyPatch, by: Callable[[Any], Any], asked: str = "f32"
) -> GateResult:
    given, backend = small(), backends.named("torchscript")
    found = Found(Counter([asked]), Counter([asked]), asked)
    monkeypatch.setattr(backend, "found", lambda runtime: found)
    runtime: Any = Shifted(given.ask, by)
    return check(given, backend, runtime, asked, Reference.make(given, []))


def test_the_border_of_the_f32_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within atol 9e-4 + rtol 1e-4 for every value; and 1e-4 over the whole output."""

    def one(by: float) -> Callable[[Any], Any]:
        def change(value: NDArray[np.float32]) -> NDArray[np.float32]:
            changed = np.array(value)
            spot = np.unravel_index(np.abs(value).argmin(), value.shape)
            changed[spot] += np.float32(by)
            return changed

        return change

    assert gate(monkeypatch, one(8e-4)).passed
    result = gate(monkeypatch, one(1.1e-3))
    assert ["values outside" in f for f in result.failures] == [True]
    assert "output: 3 values outside" in result.failures[0]
    everywhere = gate(monkeypatch, lambda v: v * np.float32(1.0002))
    assert any("relative L2 error 0.0002, at most 0.0001 for f32" in f for f in everywhere.failures)


@pytest.mark.parametrize("asked", ["bf16", "int8"])
def test_the_border_of_the_other_tolerances(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    bound = TOLERANCES[asked].relative_l2
    assert gate(monkeypatch, lambda v: v * (1 + bound * 0.9), asked).passed
    assert not gate(monkeypatch, lambda v: v * (1 + bound * 1.1), asked).passed


def test_another_shape_or_a_missing_output_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = gate(monkeypatch, lambda v: v[:, :2]).failures
    assert line == "output: shape [2, 2, 8, 8], the original's is [2, 4, 8, 8]"


def test_whole_numbers_of_another_shape_or_none_are_named() -> None:
    want: Arrays = {"classes": np.zeros((1, 4, 4), np.int32)}
    for have, got in (({"classes": np.zeros((1, 4, 2), np.int32)}, "[1, 4, 2]"), ({}, "nothing")):
        result = GateResult("f32")
        _count("classes", [want], [have], result)
        assert result.failures == [f"classes: shape {got}, the original's is [1, 4, 4]"]
    result = GateResult("f32")
    _count("classes", [want], [{"classes": np.eye(4, dtype=np.int32)[None]}], result)
    assert (result.failures, result.outputs) == ([], {"classes": {"differing": 0.25}})


def test_a_precision_that_does_not_run_is_named() -> None:
    report = {"label": "f32", "layers": {"f32": 1.0}, "flops": {"f32": 1.0}}
    assert shortfall("f32", report) is None
    assert shortfall("bf16", report) == ("asked bf16, found f32 (multiply-adds: f32 100%)")
    partly = {"label": "int8", "layers": {}, "flops": {"f32": 0.3, "int8": 0.7}}
    assert shortfall("int8", partly) == (
        "asked int8, found int8 (multiply-adds: f32 30%, int8 70%)"
    )
    assert "none known" in str(shortfall("int8", {**partly, "flops": {}}))


def detections(boxes: NDArray[Any]) -> Arrays:
    """``[K, 6]`` x1, y1, x2, y2, confidence, class as a detector's raw output of three classes."""
    raw = np.zeros((1, max(1, len(boxes)), 8), np.float32)
    for i, (x1, y1, x2, y2, confidence, kind) in enumerate(boxes):
        raw[0, i, :5] = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 1)
        raw[0, i, 5 + int(kind)] = confidence
    return {"boxes": raw}


BOXES: NDArray[np.float64] = np.array(
    [[10, 10, 60, 60, 0.9, 0], [100, 20, 160, 90, 0.8, 1], [30, 120, 90, 200, 0.7, 2]]
)


SETTINGS: dict[str, Any] = {
    **{"confidence": 0.25, "iou": 0.45, "max_detections": 300},
    "head": YOLOv5(classes=3).to_setting(),
}


def detector(settings: dict[str, Any]) -> Model:
    source = Source(nn.Identity(), "yolov5", "n", ("a", "b", "c"), Path(), "", "detection")
    spec = TensorSpec("images", "uint8", ("batch", 320, 320, 3))
    return Model(source, (spec,), (), None, lambda x: x, settings)


def compared(
    other: NDArray[Any], asked: str = "f32", truth: NDArray[np.float32] | None = None
) -> Comparison:
    sample = Sample(Path("a.jpg"), {}, truth)
    return compare(detector(SETTINGS), asked, [detections(BOXES)], [detections(other)], [sample])


def moved(row: int, column: int, value: float) -> NDArray[Any]:
    other = np.array(BOXES)
    other[row, column] = value
    return other


def test_the_same_boxes_pass() -> None:
    result = compared(BOXES)
    assert result.failures == []
    assert result.figures["boxes_compared"] == 3


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (moved(0, 5, 1), "boxes: 2 of 4 matched"),
        (BOXES[:2], "boxes: 2 of 3 matched"),
        (moved(0, 0, 10.8), "a corner moved 0.80 px, at most 0.5 px"),
        (np.vstack((BOXES, [200, 200, 260, 260, 0.5, 0])), "boxes: 3 of 4 matched"),
    ],
)
def test_other_boxes_fail(other: NDArray[Any], words: str) -> None:
    result = compared(other)
    assert any(words in failure for failure in result.failures), result.failures


def test_a_box_near_the_threshold_may_be_missing() -> None:
    extra = [200, 200, 260, 260, 0.27, 0]
    assert compared(np.vstack((BOXES, extra)), "bf16").failures == []
    assert compared(np.vstack((BOXES, extra)), "f32").failures


def test_a_graphs_own_boxes_are_cut_as_they_are_answered() -> None:
    """Its suppression has a limit for each class; what is beyond the limit of all is not lost."""
    rows = np.concatenate((np.zeros((3, 1)), BOXES), axis=1).astype(np.float32)[::-1]
    given, want = detector({**SETTINGS, "max_detections": 2}), detections(BOXES)
    for found, failed in ((rows, False), (rows[:2], True)):
        have = {**want, "detections": found}
        assert bool(compare(given, "bf16", [want], [have], []).failures) == failed


def test_a_loss_of_map_fails() -> None:
    truth = BOXES[:, [0, 1, 2, 3, 5]].astype(np.float32)
    assert compared(BOXES, "bf16", truth).failures == []
    wide = BOXES.copy()
    wide[:, 2] += 7
    result = compared(wide, "bf16", truth)
    (line,) = result.failures
    assert line.startswith("mAP50-95: 1.0000 -> ")
    assert "points lost, at most 0.5" in line


def test_without_labels_the_gate_says_that_map_is_not_compared() -> None:
    assert compared(BOXES).figures["map"] == "not compared: no sample has a label file of boxes"


def test_a_map_of_nothing_on_both_sides_is_not_compared() -> None:
    elsewhere = np.array([[300, 300, 310, 310, 0]], np.float32)
    assert "not compared: it is 0 on both sides" in compared(BOXES, truth=elsewhere).figures["map"]
