"""Which candidates there are for what was asked, and what becomes of one that cannot be."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

import pytest
import torch

from handlers.artefact import Artefact
from handlers.errors import KitError
from handlers.runtimes.base import Runtime
from repack import backends
from repack.backends.conversion import Conversion
from repack.backends.onnxruntime import OnnxRuntime
from repack.candidates import Candidate, Proof, asked, superfluous, try_one
from repack.gate import GateResult, Reference
from repack.model import Model
from repack.options import SHIPPED, GpuOptions
from tests.support import made
from tests.support.loading import detector, model

ARTEFACT = Artefact("tensorrt", (), "f16", {}, "tensors")
ON_GPU = [name for name, backend in backends.BACKENDS.items() if backend.device == "gpu"]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@cache
def of_module() -> Model:
    return detector(SHIPPED, 64)


@cache
def of_onnx() -> Model:
    return model(made.tiny_onnx())


def names(given: Model, backend: str, precision: str, calibrated: bool = False) -> list[str]:
    found = asked(given, backend, precision, calibrated, GpuOptions())
    return [f"{c.name} {c.precision}" for c in found]


def refusal(given: Model, backend: str, precision: str) -> str:
    with pytest.raises(KitError) as refused:
        asked(given, backend, precision, False, GpuOptions())
    assert "\n" not in str(refused.value)
    return str(refused.value)


def compared(*failures: str) -> Candidate:
    """An engine by torch2trt that was built and compared, and passed if nothing failed."""
    proof = Proof(ARTEFACT, GateResult("f16", failures=list(failures)), cast(Runtime, None))
    return Candidate("tensorrt", "f16", "torch2trt", proof)


@pytest.mark.parametrize(
    ("before", "via", "expected"),
    [
        ([compared()], "auto", True),
        ([compared("it differs")], "auto", False),
        ([Candidate("tensorrt", "f16", "torch2trt", error="not built")], "auto", False),
        ([Candidate("tensorrt", "int8", "torch2trt", compared().proof)], "auto", False),
        ([compared()], "onnx", False),
        ([], "auto", False),
    ],
)
def test_the_second_way_is_taken_where_the_first_led_nowhere(
    before: list[Candidate], via: str, expected: bool
) -> None:
    second = Candidate("tensorrt", "f16", "onnx")
    assert superfluous(second, before, GpuOptions(via=via)) is expected


@NO_GPU
def test_auto_tries_every_backend_of_the_cpu_in_the_tables_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends.named("openvino"), "lacks", lambda precision: None)
    plain = ["torchscript f32", "onnxruntime f32", "openvino f32", "openvino bf16"]
    assert names(of_module(), "auto", "auto") == plain
    assert names(of_module(), "auto", "auto", calibrated=True) == [*plain, "openvino int8"]
    assert names(of_onnx(), "auto", "auto") == plain[1:]
    assert names(of_onnx(), "auto", "bf16") == ["openvino bf16"]
    assert names(of_onnx(), "openvino", "int8") == ["openvino int8"]


@NO_GPU
@pytest.mark.parametrize("backend", ON_GPU)
def test_a_gpu_backend_without_a_gpu_is_one_line(backend: str) -> None:
    assert refusal(of_module(), backend, "f16") == (
        f"--backend {backend} --precision f16: {backends.title(backend)} needs an NVIDIA GPU, and "
        "this machine has none: use --backend auto"
    )


def test_what_is_not_there_is_one_line_that_lists_what_is() -> None:
    assert refusal(of_module(), "magic", "f32") == (
        f"no backend 'magic'; there is {', '.join(backends.BACKENDS)}"
    )
    assert refusal(of_onnx(), "openvino", "f99") == (
        "--backend openvino --precision f99: no backend builds that from an ONNX file here; "
        "openvino offers f32, bf16, int8"
    )
    assert refusal(of_module(), "torchscript", "bf16").endswith("torchscript offers f32")
    assert refusal(of_onnx(), "torchscript", "f32") == (
        "--backend torchscript --precision f32: an ONNX file has no module to trace: "
        "use --backend auto"
    )


@NO_GPU
def test_a_precision_that_no_backend_has_is_not_blamed_on_the_file() -> None:
    line = refusal(of_onnx(), "auto", "f99")
    assert "no backend builds that" in line
    assert "openvino offers f32, bf16, int8" in line


def test_a_precision_that_this_machine_lacks_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    openvino = backends.named("openvino")
    monkeypatch.setattr(
        openvino, "lacks", lambda p: "this processor has no bfloat16" if p == "bf16" else None
    )
    assert names(of_onnx(), "openvino", "auto") == ["openvino f32"]
    said = capsys.readouterr().err
    assert "note: openvino bf16 is left out: this processor has no bfloat16" in said
    assert refusal(of_onnx(), "openvino", "bf16") == (
        "--backend openvino --precision bf16: this processor has no bfloat16: use --precision auto"
    )


class Impostor(OnnxRuntime):
    """Builds an artefact, and says that another runtime is to run it."""

    def build(self, given: Conversion, precision: str, via: str, folder: str) -> Artefact:
        return replace(super().build(given, precision, via, folder), runtime="openvino")


def test_an_artefact_for_another_runtime_than_the_candidates_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backends.BACKENDS, "onnxruntime", Impostor())
    candidate = Candidate("onnxruntime", "f32")
    try_one(candidate, Conversion(of_onnx(), tmp_path), Reference.make(of_onnx(), []))
    assert candidate.proof is None
    assert candidate.error == (
        "backend 'onnxruntime' built an artefact for runtime 'openvino': refused"
    )
    with pytest.raises(KitError, match="onnxruntime f32: backend 'onnxruntime' built"):
        candidate.proven()
