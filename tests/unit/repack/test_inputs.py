"""Inputs: axes that belong together, and values that mean something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.errors import KitError
from handlers.passport import TensorSpec
from repack import cli, inputs, pipeline
from repack.gate import Reference
from repack.model import Model
from repack.options import Options, SourceOptions, Values
from tests.support import odd_models as odd

JIT = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def loaded(path: Path, **options: Any) -> Model:
    return pipeline.load(Options(SourceOptions(path), **options))


def test_axes_of_one_name_are_of_one_length() -> None:
    specs = (
        TensorSpec("x", "float32", ("batch", "time")),
        TensorSpec("state", "float32", (2, "batch", 4)),
        TensorSpec("other", "float32", ("any", "any", "time")),
    )
    made = inputs.made_up(specs, np.random.default_rng(0), 3)
    assert [made[s.name].shape for s in specs] == [(3, 8), (2, 3, 4), (3, 8, 8)]


def test_a_rate_that_must_be_one_of_two(tmp_path: Path) -> None:
    path = odd.rated(tmp_path / "m.onnx")
    with pytest.raises(KitError, match=r"sr=1 \(one value\).* by --input-values"):
        Reference.make(loaded(path), [])
    model = loaded(path, input_values={"sr": Values(among=(8000, 16000))})
    rates = {int(model.random_inputs(seed)["sr"]) for seed in range(20)}
    assert rates == {8000, 16000}
    Reference.make(model, [])
    assert model.inputs[2].values == (8000, 16000)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rate": Values(among=(1,))}, "--input-values names rate; the model has x, state, sr"),
        ({"sr": Values(among=(0.5,))}, "--input-values sr: 0.5 is no int64"),
        ({"sr": Values(range=(0, 1e30))}, "--input-values sr: 1e+30 is no int64"),
    ],
)
def test_values_that_no_input_holds_are_refused(
    tmp_path: Path, given: dict[str, Values], words: str
) -> None:
    with pytest.raises(KitError) as refused:
        loaded(odd.rated(tmp_path / "m.onnx"), input_values=given)
    assert words in str(refused.value)


def test_the_length_that_is_tried_of_a_free_axis_is_said(tmp_path: Path) -> None:
    path = odd.halved_and_doubled(tmp_path / "m.onnx")
    (line,) = loaded(path).notes
    assert "a length of 8 where an axis is free (x=batchx3xheightxwidth)" in line
    assert loaded(path, input_shapes={"x": ("batch", 3, 8, 8)}).notes == ()


def test_values_on_the_command_line() -> None:
    found = cli.parse(["--input-values", "sr=8000,16000", "--input-values", "ids=0:29999"])
    assert found.input_values == {
        "sr": Values(among=(8000, 16000)),
        "ids": Values(range=(0, 29999)),
    }
    for text in ("sr=", "sr=a", "sr=5:1", "sr=1:2:3", "sr=nan"):
        with pytest.raises(KitError, match="expected \\[NAME=\\]8000,16000 or"):
            cli.parse(["--input-values", text])


def test_an_input_may_be_given_by_its_place(tmp_path: Path) -> None:
    shape = ("batch", 3, 8, 8)
    model = loaded(odd.halved_and_doubled(tmp_path / "m.onnx"), input_shapes={"input_0": shape})
    assert model.inputs[0].shape == shape


def test_a_type_that_is_not_the_files_own_is_refused(tmp_path: Path) -> None:
    path = odd.lookup(tmp_path / "m.onnx")
    with pytest.raises(KitError, match=r"--input-shape ids=int32:.*the file's own is int64"):
        loaded(path, input_shapes={"ids": (1, 6)}, input_types={"ids": "int32"})


def test_places_in_a_table_are_known(tmp_path: Path) -> None:
    assert loaded(odd.lookup(tmp_path / "m.onnx")).inputs[0].range == (-7, 6)


@JIT
def test_places_in_an_embedding_are_known(tmp_path: Path) -> None:
    path = odd.scripted(tmp_path / "m.pt", odd.Masked())
    shapes = {"ids": ("batch", "tokens"), "mask": ("batch", "tokens")}
    types = {"ids": "int64", "mask": "int64"}
    model = loaded(path, input_shapes=shapes, input_types=types)
    assert [s.range for s in model.inputs] == [(0, 8), None]
    own = {"ids": Values(range=(2, 5))}
    model = loaded(path, input_shapes=shapes, input_types=types, input_values=own)
    assert [s.range for s in model.inputs] == [(2, 5), None]
