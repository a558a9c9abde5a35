"""A classifier's part of the report: limits of what is measured, and what says most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from handlers.passport import TensorSpec
from repack.model import Model
from repack.samples import Sample
from repack.sources.source import Source
from repack.tasks.classification import compare, report
from repack.tolerances import TOLERANCES

LABELS = ("cat", "dog", "bird")


def figures(labelled: bool) -> dict[str, Any]:
    """The gate's of four pictures, three of whose first classes stay."""
    spec = TensorSpec("scores", "float32", ("batch", len(LABELS)))
    source = Source(nn.Identity(), "onnx", "x", LABELS, Path("x.onnx"), "0" * 64, "classification")
    model = Model(source, (spec,), (spec,), None, dict, {"scores": "probabilities"})
    given = [{"scores": np.eye(3, dtype=np.float32)[[i]]} for i in (0, 1, 2, 0)]
    other = [*given[:3], given[1]]
    samples = [
        Sample(
            Path(f"{i}.jpg"), one, one["scores"].argmax(1).astype(np.float32) if labelled else None
        )
        for i, one in enumerate(given)
    ]
    return compare.compare(model, "f32", given, other, samples).figures


@pytest.mark.parametrize("precision", TOLERANCES)
def test_every_limit_is_of_a_figure_that_the_gate_measures(precision: str) -> None:
    assert report.limits(precision).keys() <= figures(True).keys()


def test_with_class_folders_the_accuracy_is_the_headline() -> None:
    assert report.unchecked(figures(True), 4) == []
    assert report.headline(figures(True)) == {
        "name": "accuracy", "value": "75.0% right", "note": "original 100.0%, 4 samples",
    }  # fmt: skip


def test_without_them_the_agreement_is_and_what_to_do_is_told() -> None:
    (note,) = report.unchecked(figures(False), 4)
    assert note["what"] == "Accuracy" and not note["serious"]
    assert "one folder a class" in note["why"]
    assert report.headline(figures(False)) == {
        "name": "agreement", "value": "75.0% same first class", "note": "4 pictures compared",
    }  # fmt: skip
