"""A volume through a network on the GPU: the CPU's mask, in the memory that was stated."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from handlers.artefact import Artefact, TorchScriptCudaOptions
from handlers.context import LocalContext
from handlers.runtimes import Loaded, make
from handlers.runtimes.base import Runtime
from handlers.segmentation import SegmentationHandler
from tests.support import volumes

pytestmark = pytest.mark.gpu

CHANGES: list[dict[str, Any]] = [
    {},
    {"windows": {"overlap": 0.5, "mirror": [0, 1, 2]}},
    {"spacing": [1.5, 1.5, 1.5]},
    {"orientation": "RAS", "framework": "monai"},
]


def network() -> nn.Module:
    torch.manual_seed(7)
    first, second = nn.Conv3d(1, 6, 3, padding=1), nn.Conv3d(6, 3, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second).eval()


class OnCpu(Runtime):
    name = "torchscript"

    def activate(self) -> None:
        raise AssertionError("nothing here asks for this")

    def infer(
        self, inputs: dict[str, NDArray[Any]], every: bool = False
    ) -> dict[str, NDArray[Any]]:
        (x,) = inputs.values()
        with torch.inference_mode():
            return {"OUTPUT__0": network()(torch.from_numpy(x)).numpy()}


def on_gpu(folder: Path, changed: dict[str, Any]) -> SegmentationHandler:
    record = volumes.passport(volumes.settings(**changed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and what is packed
        x = torch.zeros((1, 1, *volumes.PATCH), device="cuda")
        torch.jit.save(torch.jit.trace(network().cuda(), x), str(folder / "model.pt"))
    options = TorchScriptCudaOptions(outputs=("OUTPUT__0",), batches=(1, 2))
    artefact = Artefact(
        "torchscript-cuda", ("model.pt",), "f32", {"label": "f32"}, "tensors", options
    )
    runtime = make(folder, record.inputs, artefact, 2)
    runtime.activate()
    return SegmentationHandler(record, Loaded(runtime, artefact), 2)


def answer(handler: SegmentationHandler) -> tuple[NDArray[Any], LocalContext]:
    context = LocalContext(Path())
    sent = volumes.nifti(volumes.scan((60, 70, 50)))
    (body,) = handler.handle([{"body": bytearray(sent)}], context)
    assert context.statuses == [200], body
    return volumes.load_mask(body)[0], context


@pytest.mark.parametrize("changed", CHANGES)
def test_masks_are_those_of_the_cpu(
    changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    record = volumes.passport(volumes.settings(**changed))
    runtime = OnCpu(Path(), volumes.PORTABLE, record.inputs)
    expected, _ = answer(SegmentationHandler(record, Loaded(runtime, volumes.PORTABLE)))
    found, context = answer(on_gpu(tmp_path, changed))
    assert len(set(expected.reshape(-1).tolist())) > 1
    assert (found != expected).mean() < 5e-4
    assert context.stages_ms["infer"] > 0


def test_no_more_memory_is_taken_than_was_stated(tmp_path: Path) -> None:
    handler = on_gpu(tmp_path, {})
    answer(handler)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    _, context = answer(handler)
    taken = torch.cuda.max_memory_allocated() - before
    stated = int(context.response_headers[0]["X-Device-Memory-Bytes"])
    assert 0 < taken <= stated
    assert torch.cuda.memory_allocated() == before


def test_a_volume_too_large_for_the_gpu_is_refused(tmp_path: Path) -> None:
    handler = on_gpu(tmp_path, {})
    assert handler._segmenter is not None
    handler._segmenter._free = lambda device: 1 << 20
    context = LocalContext(Path())
    sent = volumes.nifti(volumes.scan((60, 70, 50)))
    (body,) = handler.handle([{"body": bytearray(sent)}], context)
    assert context.statuses == [413]
    assert "of the GPU's memory" in volumes.message(body)
