"""Operators that no exporter knows, written in ONNX by the user's file: ``--symbolic``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from examples.custom_operator import operators as example
from handlers.errors import KitError
from repack.onnx import symbolic
from repack.onnx.export import OPSET, SCRIPTED_OPSET
from tests.support import made

EXAMPLE = made.ROOT / "examples" / "custom_operator"
NETWORK = ("--network", "examples.custom_operator.network:Net")
SHAPE = ("--input-shape", "batchx3x16x16")
SYMBOLIC = ("--symbolic", EXAMPLE / "operators.py")


MISTAKES = {
    "none.py": (None, "cannot be read (No such file"),
    "syntax.py": ("SYMBOLIC = {", "cannot be read ("),
    "fails.py": ("a = 1\nraise ValueError('no')\n", "fails.py, line 2: ValueError (no)"),
    "nothing.py": ("x = 1\n", "defines no SYMBOLIC; expected such as"),
    "names.py": ("SYMBOLIC = {'asinh': print}\n", "SYMBOLIC has 'asinh': builtin_function"),
    "values.py": ("SYMBOLIC = {'aten::asinh': 3}\n", "SYMBOLIC has 'aten::asinh': int; expected"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, name: str) -> None:
    text, words = MISTAKES[name]
    if text is not None:
        (tmp_path / name).write_text(text)
    before = list(sys.path)
    with pytest.raises(KitError) as caught:
        symbolic.load(tmp_path / name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sys.path == before


def test_an_operator_that_pytorch_lacks_is_named() -> None:
    with pytest.raises(KitError, match=r"operator mine::absent, which PyTorch does not have"):
        symbolic.translations({"mine::absent": example.asinh}, OPSET)


class Rolled(nn.Module):
    """Calls an operator with a list and a number among its arguments."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(torch.flip(x, [1]), 0.25)


def test_numbers_lists_and_attributes_reach_both_exporters(tmp_path: Path) -> None:
    def flip(op: Any, x: Any, axes: list[int]) -> Any:
        assert list(axes) == [1]
        return op.Slice(x, [-1], [-(2**31)], axes, [-1])

    def leaky(op: Any, x: Any, slope: float) -> Any:
        assert slope == 0.25
        return op.LeakyRelu(x, alpha=slope)

    functions: symbolic.Functions = {"aten::flip": flip, "aten::leaky_relu": leaky}
    x = torch.randn(2, 5)
    for dynamo, opset in ((True, OPSET), (False, SCRIPTED_OPSET)):
        path = tmp_path / f"{opset}.onnx"
        table = symbolic.translations(functions, opset) if dynamo else None
        with warnings.catch_warnings(), symbolic.registered(functions, opset):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Rolled(),
                (x,),
                str(path),
                dynamo=dynamo,
                opset_version=opset,
                custom_translation_table=table,
                verbose=False,
            )
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(found, Rolled()(x).numpy(), rtol=1e-6)
