"""OpenVINO's precisions at repack: what this processor has is asked for, and read back.

Row 49: also on processors without bfloat16 or AVX-512.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from handlers.passport import Passport
from handlers.runtimes import openvino_
from repack import archive
from repack.backends.conversion import Conversion
from repack.candidates import Candidate, try_one
from repack.gate import Reference
from repack.raw_tensors import tensors
from tests.support import made
from tests.support.isa import REASON, environment, has_bf16, without_bf16
from tests.support.loading import load

OPENVINO = ("--backend", "openvino", "--name", "tiny")


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Calibration inputs and samples, all different."""
    folders = []
    for name, seed in (("calibration", 1), ("samples", 2)):
        folder = tmp_path_factory.mktemp(name)
        rng = np.random.default_rng(seed)
        for i in range(6):
            np.save(folder / f"{i}.npy", rng.normal(size=(1, 3, 8, 8)).astype(np.float32))
        folders.append(folder)
    return folders[0], folders[1]


def packed(store: Path, precision: str, isa: str, *flags: str | Path) -> Passport:
    given = (*OPENVINO, "--precision", precision, "--weights", made.tiny_onnx(), *flags)
    made.repacked(*given, "--model-store", store, variables=environment(isa))
    return archive.verify(store / "tiny.mar")


def test_int8_is_asked_and_found(tmp_path: Path, arrays: tuple[Path, Path], isa: str) -> None:
    calibration, samples = arrays
    record = packed(tmp_path, "int8", isa, "--calibration", calibration, "--samples", samples)
    fast = record.artefacts["accelerated"]
    assert (fast.runtime, fast.precision_asked) == ("openvino", "int8")
    assert fast.precision_found["label"] == "int8"
    assert fast.precision_found["flops"]["int8"] >= 0.8
    assert fast.options.execution_type == ("bf16" if has_bf16(isa) else "f32")
    assert record.gate["accelerated"]["passed"]
    assert record.gate["accelerated"]["inputs"] == {"random": 3, "samples": 6}
    error = record.gate["accelerated"]["outputs"]["y"]["relative_l2"]
    assert 1e-4 < error < 0.15, "an int8 model differs, a little"
    portable = record.artefacts["portable"]
    assert (portable.runtime, portable.precision_found["label"]) == ("onnxruntime", "f32")


def test_f32_is_f32_where_openvino_would_choose_bf16(tmp_path: Path, isa: str) -> None:
    found = packed(tmp_path, "f32", isa).artefacts["accelerated"].precision_found
    assert (found["label"], found["flops"]) == ("f32", {"f32": 1.0})


@pytest.mark.skipif(not has_bf16("ALL"), reason="bf16 cannot be seen to run: this CPU has none")
def test_bf16_is_found_as_asked(tmp_path: Path) -> None:
    found = packed(tmp_path, "bf16", "ALL").artefacts["accelerated"].precision_found
    assert (found["label"], found["flops"]) == ("bf16", {"bf16": 1.0})


@pytest.mark.parametrize("backend", ["openvino", "auto"])
@pytest.mark.parametrize("isa", without_bf16(), ids=lambda isa: isa or "as it is")
def test_bf16_that_the_cpu_lacks_is_no_archive(tmp_path: Path, isa: str, backend: str) -> None:
    flags = ("--backend", backend, "--precision", "bf16", "--weights", made.tiny_onnx())
    done = made.repack(*flags, "--model-store", tmp_path / "store", variables=environment(isa))
    assert done.returncode == 1
    (line,) = (x for x in done.stderr.splitlines() if x.startswith("error: "))
    words = f"error: --backend {backend} --precision bf16: {REASON}: use --precision auto"
    assert re.fullmatch(words, line), line
    assert not (tmp_path / "store").exists()


def test_auto_tries_bf16_only_where_the_cpu_has_it(tmp_path: Path, isa: str) -> None:
    flags = (*OPENVINO, "--weights", made.tiny_onnx(), "--model-store", tmp_path)
    said = made.repacked(*flags, variables=environment(isa))
    left_out = [x for x in said.splitlines() if "note: openvino bf16 is left out: " in x]
    assert ("converting to openvino bf16" in said) == has_bf16(isa)
    assert len(left_out) == (0 if has_bf16(isa) else 1)
    assert archive.verify(tmp_path / "tiny.mar").artefacts["accelerated"].runtime == "openvino"


def test_the_gate_stands_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a bf16 artefact that was built is not taken where f32 is what runs."""
    monkeypatch.setattr(openvino_, "lacks", lambda p: "it has none" if p == "bf16" else None)
    model = tensors(load(made.tiny_onnx()), {})
    candidate = Candidate("openvino", "bf16")
    try_one(candidate, Conversion(model, tmp_path), Reference.make(model, []))
    expected = "precision: asked bf16, found f32 (multiply-adds: f32 100%)"
    assert candidate.verdict.startswith(expected), candidate.verdict
