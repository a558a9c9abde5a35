"""The table of others' models, and the page that is written of it (tests/parity/any_model.py)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repack import cli
from tests.parity import any_model
from tests.parity.any_model import Difference, Wrong
from tests.parity.any_model_table import ENVIRONMENTS, MODELS
from tests.parity.make_any_model_reference import PACKAGES


def test_every_environment_is_pinned_made_and_used() -> None:
    assert set(ENVIRONMENTS) == set(PACKAGES) == {m.environment for m in MODELS.values()}
    pins = [pin for environment in ENVIRONMENTS.values() for pin in environment.pins]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in pins)


@pytest.mark.parametrize("name", MODELS)
def test_a_models_flags_are_the_command_lines(name: str) -> None:
    given = ["--weights", "m", "--samples", "inputs", "--name", name, *MODELS[name].flags]
    assert cli.parse(given).name == name


def test_the_page_has_the_models_of_the_table() -> None:
    named = re.findall(
        r"^\| `([\w-]+)` \|", any_model.PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert named
    assert set(named) <= set(MODELS)


def result(error: str = "", difference: float = 0.0) -> dict[str, Any]:
    shares = {"absolute": difference, "relative": difference, "inside": True}
    told: Any = None if error else shares
    packed = {"label": "openvino f32", "error": error, "local": told, "served": told}
    refused = packed | {"error": error or "no module", "local": None}
    return {
        "command": "--weights model.onnx",
        "packed": {
            "torchscript": refused,
            "onnxruntime": packed,
            "openvino": packed,
            "auto": packed,
        },
    }


def test_the_page_gets_a_row_where_it_belongs() -> None:
    page = any_model.PAGE.read_text(encoding="utf-8")
    kept = {"magika": result(difference=0.25), "sklearn-zipmap": result("of another kind")}
    parts = re.split(r"^## ", any_model.written(page, kept), flags=re.MULTILINE)
    found = {part.splitlines()[0]: re.findall(r"^\| `.*", part, re.MULTILINE) for part in parts}
    (row,), (command,), (refused,) = (found[k] for k in ("Results", "Commands", "Not packed"))
    assert "magika 1.0.3 | onnxruntime, openvino |  | 0.25 / 0.25 | openvino f32 |" in row
    assert command == "| `magika` | `--weights model.onnx` |"
    assert "skl2onnx 1.20.0 | of another kind |" in refused


@pytest.mark.parametrize(("off", "inside"), [(0.0, True), (5e-4, True), (0.5, False)])
def test_the_largest_difference_is_found(off: float, inside: bool) -> None:
    theirs = np.array([0.0, 2.0, -np.inf], np.float32)
    difference = Difference()
    difference.take(theirs, theirs + np.float32(off))
    assert difference.absolute == pytest.approx(off, abs=1e-7)
    assert difference.inside is inside


@pytest.mark.parametrize(
    ("ours", "words"), [(np.zeros(2), "the original"), (np.array([0, 0, np.inf]), "infinity")]
)
def test_what_cannot_be_measured_is_no_difference_but_an_error(ours: Any, words: str) -> None:
    with pytest.raises(Wrong, match=words):
        Difference().take(np.zeros(3), ours)


def test_an_unexpected_refusal_is_told() -> None:
    refused = any_model.Result("", {"auto": any_model.Packed(error="no")})
    assert any_model.wrong({"magika": refused}) == ["magika: no, expected an archive"]


def test_the_reference_is_made_by_a_file_that_is_there() -> None:
    assert isinstance(any_model.MAKER, Path)
    assert any_model.MAKER.is_file()
