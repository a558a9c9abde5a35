"""int8 by NNCF, and which precision really runs, read back from the runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from handlers.passport import Passport
from repack import archive
from tests.support import made

CAPABILITIES = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


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


def packed(store: Path, precision: str, *flags: str | Path) -> Passport:
    given = ("--backend", "openvino", "--precision", precision, "--name", "tiny")
    made.repacked(*given, "--weights", made.tiny_onnx(), "--model-store", store, *flags)
    return archive.verify(store / "tiny.mar")


@pytest.mark.skipif("INT8" not in CAPABILITIES, reason="this CPU has no int8 in OpenVINO")
def test_int8_is_asked_and_found(tmp_path: Path, arrays: tuple[Path, Path]) -> None:
    calibration, samples = arrays
    record = packed(tmp_path, "int8", "--calibration", calibration, "--samples", samples)
    fast = record.artefacts["accelerated"]
    assert (fast.runtime, fast.precision_asked) == ("openvino", "int8")
    assert fast.precision_found["label"] == "int8"
    assert fast.precision_found["flops"]["int8"] >= 0.8
    assert record.gate["accelerated"]["passed"]
    assert record.gate["accelerated"]["inputs"] == {"random": 3, "samples": 6}
    error = record.gate["accelerated"]["outputs"]["y"]["relative_l2"]
    assert 1e-4 < error < 0.15, "an int8 model differs, a little"
    portable = record.artefacts["portable"]
    assert (portable.runtime, portable.precision_found["label"]) == ("onnxruntime", "f32")


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_other_precisions_are_found_as_asked(tmp_path: Path, precision: str) -> None:
    if precision == "bf16" and "BF16" not in CAPABILITIES:
        pytest.skip("this CPU has no bfloat16")
    record = packed(tmp_path, precision)
    found = record.artefacts["accelerated"].precision_found
    assert (found["label"], found["flops"]) == (precision, {precision: 1.0})


def test_an_asked_precision_that_does_not_run_is_no_archive(tmp_path: Path) -> None:
    """Where the CPU has no bfloat16, OpenVINO runs f32 and the gate says so."""
    if "BF16" in CAPABILITIES:
        pytest.skip("this CPU has bfloat16")
    flags = ("--backend", "openvino", "--precision", "bf16", "--name", "tiny")
    done = made.repack(*flags, "--weights", made.tiny_onnx(), "--model-store", tmp_path)
    assert done.returncode == 3
    assert "asked bf16, found f32" in done.stderr
