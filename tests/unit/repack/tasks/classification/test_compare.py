"""The gate of classifiers: first class, probabilities, accuracy on labelled pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from handlers.runtimes import make
from repack import backends
from repack.backends.conversion import Conversion
from repack.gate import GateResult, Reference, check
from repack.model import Arrays, Model
from repack.samples import Sample
from repack.tasks.classification import compare as gate
from repack.tolerances import TOLERANCES
from tests.support import classifiers
from tests.support.loading import classifier, load


def small() -> Model:
    return classifier(load(classifiers.resnet_onnx()))


def _labelled(model: Model, count: int = 8) -> list[Sample]:
    """Random pictures whose truth is what the original answers."""
    found = []
    for seed in range(count):
        given = model.random_inputs(seed)
        (answer,) = model.ask(given).values()
        truth = answer[0].argmax(keepdims=True).astype(np.float32)
        found.append(Sample(Path(f"{seed}.jpg"), given, truth))
    return found


class Changed:
    """A runtime whose answers are changed on the way."""

    def __init__(self, runtime: Any, change: Any):
        self.__dict__.update(runtime.__dict__)
        self.name, self._runtime, self._change = runtime.name, runtime, change

    def infer(self, inputs: Arrays, every: bool = False) -> Arrays:
        return {k: self._change(np.array(v)) for k, v in self._runtime.infer(inputs).items()}


def _checked(model: Model, tmp_path: Path, asked: str, change: Any) -> GateResult:
    backend, stage = backends.named("onnxruntime"), tmp_path / "work"
    (stage / "t").mkdir(parents=True)
    artefact = backend.build(Conversion(model, stage), "f32", "", "t")
    runtime = make(stage, model.inputs, artefact, threads=1)
    runtime.activate()
    reference = Reference.make(model, _labelled(model))
    changed: Any = Changed(runtime, change)
    return check(model, backend, changed, asked, reference)


def test_the_gate_counts_classes_and_accuracy(tmp_path: Path) -> None:
    model = small()
    result = _checked(model, tmp_path, "f32", lambda v: v)
    assert result.failures == []
    assert result.task["pictures_compared"] == 12
    assert result.task["same_first_class"] == 1
    assert result.task["accuracy"] == {"labelled_samples": 8, "original": 1.0, "converted": 1.0}


def test_the_gate_fails_on_other_classes_within_the_tolerance(tmp_path: Path) -> None:
    """Two classes exchanged: the kind of damage that a tensor's relative error hides."""
    model = small()

    def exchanged(values: Any) -> Any:
        order = np.argsort(-values, axis=1)
        rows = np.arange(len(values))
        first, second = values[rows, order[:, 0]].copy(), values[rows, order[:, 1]].copy()
        values[rows, order[:, 0]], values[rows, order[:, 1]] = second, first
        return values

    result = _checked(model, tmp_path, "int8", exchanged)
    words = "; ".join(result.failures)
    assert "pictures keep their first class" in words
    assert "accuracy: 8 of 8 right -> " in words


def test_the_gate_fails_on_a_shifted_probability(tmp_path: Path) -> None:
    model = small()
    result = _checked(model, tmp_path, "f32", lambda v: v * np.float32(1.05))
    assert any("a probability moved by" in f for f in result.failures)


def test_every_precision_has_its_bounds() -> None:
    for bounds in (gate.TIE, gate.AGREE, gate.SHIFT, gate.POINTS):
        assert set(bounds) == set(TOLERANCES)
