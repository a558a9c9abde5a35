"""Which forms are tried: the second road to an engine only where the first did not lead there."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from handlers.artefact import Artefact
from handlers.errors import KitError
from handlers.runtimes.base import Runtime
from repack import model as subjects
from repack import sources
from repack.backends import gpu as gpu_artefacts
from repack.candidates import Candidate, Proof, superfluous
from repack.gate import GateResult
from repack.options import GpuOptions

SHIPPED = Path("examples/shapes/yolov5n_shapes.pt")
ARTEFACT = Artefact("tensorrt", (), "f16", {}, "tensors")


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
def test_the_second_road_is_taken_where_the_first_led_nowhere(
    before: list[Candidate], via: str, expected: bool
) -> None:
    second = Candidate("tensorrt", "f16", "onnx")
    assert superfluous(second, before, GpuOptions(via=via)) is expected


@pytest.mark.skipif(gpu_artefacts.available(), reason="this machine has a GPU")
@pytest.mark.parametrize("backend", gpu_artefacts.PRECISIONS)
def test_a_gpu_backend_without_a_gpu_is_one_line(backend: str) -> None:
    settings = {"confidence": 0.25, "iou": 0.45, "max_detections": 300}
    subject = subjects.detector(sources.load(SHIPPED), 64, settings)
    with pytest.raises(KitError, match=f"--backend {backend} needs an NVIDIA GPU"):
        listed(subject, backend, "f16", False, GpuOptions())
