"""Operators that no exporter knows, written in ONNX by the user's file: ``--symbolic``."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from handlers.context import LocalContext
from handlers.entry import Entry
from repack import archive
from tests.support import made

EXAMPLE = made.ROOT / "examples" / "custom_operator"
NETWORK = ("--network", "examples.custom_operator.network:Net")
SHAPE = ("--input-shape", "batchx3x16x16")
SYMBOLIC = ("--symbolic", EXAMPLE / "operators.py")


@cache
def state_dict() -> Path:
    """The example's weights; the traced network lies beside them."""
    path = made.folder() / "custom" / "net.pt"
    path.parent.mkdir()
    script = [sys.executable, str(EXAMPLE / "network.py"), str(path)]
    subprocess.run(script, check=True, cwd=made.ROOT)
    return path


def repack(tmp_path: Path, *flags: str | Path) -> subprocess.CompletedProcess[str]:
    return made.repack(*flags, *SHAPE, "--name", "custom", "--model-store", tmp_path)


@pytest.mark.parametrize(
    "kind", ["state dict", pytest.param("torchscript", marks=pytest.mark.slow)]
)
def test_the_example_is_repacked_and_answers_like_the_original(tmp_path: Path, kind: str) -> None:
    flags: tuple[str | Path, ...] = ("--weights", state_dict(), *NETWORK)
    if kind == "torchscript":
        flags = ("--weights", state_dict().with_suffix(".torchscript"))
    done = repack(tmp_path, *flags, *SYMBOLIC, "--precision", "f32")
    assert done.returncode == 0, done.stderr
    assert "operator kit_example::soft_clip is not PyTorch's own: no worker has it" in done.stderr
    record = archive.unpack(tmp_path / "custom.mar", tmp_path / "out")
    assert record.artefacts["portable"].runtime == "onnxruntime"
    graph = onnx.load(tmp_path / "out" / record.artefacts["portable"].files[0])
    kinds = [node.op_type for node in graph.graph.node]
    assert {"Asinh", "Tanh"} <= set(kinds)
    assert {opset.domain for opset in graph.opset_import} <= {"", "ai.onnx.ml"}

    given = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "given.npy", given)
    entry = Entry()
    context = LocalContext(tmp_path / "out", headers={"accept": "application/x-npz"})
    entry.initialize(context)
    (answer,) = entry.handle([{"body": (tmp_path / "given.npy").read_bytes()}], context)
    (tmp_path / "answer.npz").write_bytes(answer)
    (found,) = np.load(tmp_path / "answer.npz").values()
    weights = torch.load(state_dict())
    with torch.no_grad():
        first = torch.conv2d(
            torch.from_numpy(given), weights["first.weight"], weights["first.bias"], padding=1
        )
        bent = 0.5 * torch.tanh(first / 0.5)
        second = torch.conv2d(bent, weights["second.weight"], weights["second.bias"], padding=1)
    np.testing.assert_allclose(found, torch.asinh(second).numpy(), rtol=1e-4, atol=1e-5)


def test_without_the_file_the_operator_is_named(tmp_path: Path) -> None:
    done = repack(tmp_path, "--weights", state_dict(), *NETWORK)
    assert done.returncode == 1
    (line,) = (x for x in done.stderr.splitlines() if x.startswith("error: "))
    assert "does not know kit_example::soft_clip: add --symbolic FILE.py" in line
    assert "Traceback" not in done.stderr


def test_a_wrong_form_does_not_pass_the_gate(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "SYMBOLIC = {'kit_example::soft_clip': lambda op, x, limit: op.Mul(op.Tanh(x), limit)}\n"
    )
    done = repack(tmp_path, "--weights", state_dict(), *NETWORK, "--symbolic", file)
    assert done.returncode == 3, done.stderr
    assert "values outside rtol" in done.stderr
    assert not list(tmp_path.glob("*.mar"))


def test_an_onnx_file_has_no_use_for_it(tmp_path: Path) -> None:
    flags = ("--weights", made.tiny_onnx(), *SYMBOLIC)
    done = made.repack(*flags, "--model-store", tmp_path)
    assert done.returncode == 1
    assert "tiny.onnx holds ONNX already: leave it out" in done.stderr
