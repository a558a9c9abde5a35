"""Labels that lie in each other: the order that is chosen, and what is said of hidden ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from handlers.volumes import masks, recipe
from repack.model import Arrays, Model
from repack.options import Options
from repack.sources import Source
from repack.tasks.segmentation import compare, nesting, report
from repack.tasks.segmentation.model import OUTPUT, make

LABELS = ("background", "core", "whole", "edge")
PATCH = (4, 8, 8)
SIGMOID: dict[str, Any] = {"kind": "sigmoid_threshold", "threshold": 0.5}


def model(answer: dict[str, Any]) -> Model:
    settings = {
        "channels": [{"name": "MR", "normalisation": {"kind": "none"}}],
        "patch": list(PATCH),
        "spacing": None,
        "answer": answer,
        "label_values": [0, 1, 2, 3],
    }
    net = nn.Conv3d(1, 3, 1)
    source = Source(net, "p", "n", LABELS, Path(), "", "segmentation", settings=settings)
    return make(source, Options())


def nested(*above: float) -> Arrays:
    """Logits of three labels: the voxels of a ramp from 0 to 1 that lie above each threshold."""
    ramp = np.linspace(0, 1, int(np.prod(PATCH))).reshape(PATCH)
    return {OUTPUT: np.stack([ramp - a for a in above])[None].astype(np.float32)}


def drawn(found: Model, answer: Arrays) -> list[int]:
    """The values in the mask that the handler makes."""
    made = recipe.read(found.settings, LABELS, found.outputs)
    values: list[int] = np.unique(masks.labels(answer[OUTPUT][0], made)).tolist()
    return values


def test_what_lies_inside_is_written_last(capsys: pytest.CaptureFixture[str]) -> None:
    answer = nested(0.6, 0.3, 0.8)
    assert drawn(model(SIGMOID), answer) == [0, 2, 3], "in the order of the list, core is lost"
    found = nesting.settled(model(SIGMOID), [answer])
    assert found.settings["answer"]["written"] == [1, 0, 2]
    assert drawn(found, answer) == [0, 1, 2, 3]
    assert report.mask(answer[OUTPUT][0], found.settings).max() == 3
    assert "written are whole, then core, then edge" in capsys.readouterr().err


def test_labels_side_by_side_stay_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    ramp = np.linspace(0, 3, int(np.prod(PATCH))).reshape(PATCH)
    apart = np.stack([np.where((ramp >= i) & (ramp < i + 1), 1, -1) for i in range(3)])
    found = nesting.settled(model(SIGMOID), [{OUTPUT: apart[None].astype(np.float32)}])
    assert found.settings["answer"]["written"] == [0, 1, 2]
    assert not capsys.readouterr().err


def test_a_label_that_no_input_holds_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    nesting.settled(model(SIGMOID), [nested(0.6, 0.3, 2)])
    assert "not every label is found in the gate's inputs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "answer",
    [
        SIGMOID | {"written": [0, 1, 2]},
        {"kind": "regions", "order": [1, 2, 3], "names": list(LABELS[1:])},
    ],
)
def test_an_order_that_hides_a_label_is_kept_and_named(
    answer: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    given = nested(0.6, 0.3, 0.8)
    found = nesting.settled(model(answer), [given])
    assert found.settings["answer"] == answer
    assert "warning: no mask holds core" in capsys.readouterr().err
    figures = compare.compare(found, "f32", [given], [given]).figures
    (_, note) = report.unchecked(figures, 12)
    assert (note["what"], note["serious"]) == ("Masks of core", True)


def test_without_an_original_nothing_is_settled() -> None:
    given = replace(model(SIGMOID), original=None)
    assert nesting.settled(given, []) is given
