"""The shipped checkpoint is as good as its record says: its mAP is computed again here."""

from __future__ import annotations

import json

import pytest

from examples.shapes import evaluate

COUNT = 150


def test_the_recorded_map_holds() -> None:
    recorded = json.loads(evaluate.METRICS.read_text())["scenes"]
    result = evaluate.evaluate(evaluate.load(), COUNT)
    assert result.map50 >= 0.95
    assert result.map50 == pytest.approx(recorded[str(COUNT)]["map50"], abs=0.005)
    assert result.map50_95 == pytest.approx(recorded[str(COUNT)]["map50_95"], abs=0.005)


def test_the_checkpoint_stays_small() -> None:
    assert evaluate.WEIGHTS.stat().st_size <= 4_000_000
