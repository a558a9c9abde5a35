"""The window on a device, here PyTorch on the CPU, against the one in NumPy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from handlers import windows
from handlers.context import LocalContext
from handlers.errors import TooLarge
from handlers.gpu import masks as on_device
from handlers.gpu import windows as gpu
from handlers.gpu.volumes import Segmenter
from handlers.runtimes import Loaded
from handlers.runtimes.device import DeviceRuntime, Size
from handlers.segmentation import SegmentationHandler
from handlers.volumes import masks
from handlers.windows import Slab, Windows
from tests.support import volumes
from tests.support.segmenting import Array, handler, mask_of
from tests.support.windowing import CASES, predict

CPU = torch.device("cpu")


class OnCpu(DeviceRuntime):
    """``volumes.network`` behind buffers as a GPU has them, for batches of 1 and 2."""

    name = "torchscript-cuda"
    scale = 1.0

    def activate(self) -> None:
        self.device, self.stream = CPU, None  # type: ignore[assignment]
        self.torch, self.sizes, self.batches = torch, {}, [1, 2]

    def open(self) -> None:
        raise AssertionError("nothing here asks for this")

    def prepare(self, shapes: Any) -> Size:
        raise AssertionError("nothing here asks for this")

    def call(self, size: Size) -> None:
        raise AssertionError("nothing here asks for this")

    def size(self, shapes: Any) -> Size:
        ((name, shape),) = shapes.items()
        assert shape[0] in self.batches
        if shape not in self.sizes:
            self.sizes[shape] = Size({name: torch.zeros(shape)}, {})
        return self.sizes[shape]

    def run(self, size: Size) -> None:
        (x,) = size.inputs.values()
        net = volumes.network(x.shape[1], flat=x.dim() == 4)
        size.outputs = {"OUTPUT__0": net(x) * self.scale}


def names(changed: dict[str, Any]) -> tuple[str, ...]:
    """One for each label, where a case has other labels."""
    return tuple(map(str, changed.get("label_values", volumes.LABELS)))


class Made(NamedTuple):
    handler: SegmentationHandler
    runtime: OnCpu


def made(**changed: Any) -> Made:
    record = volumes.passport(volumes.settings(**changed), names(changed))
    runtime = OnCpu(Path(), volumes.PORTABLE, record.inputs)
    runtime.activate()
    return Made(SegmentationHandler(record, Loaded(runtime, volumes.PORTABLE)), runtime)


def on_tensors(patches: Tensor) -> Tensor:
    return torch.from_numpy(predict(patches.numpy()))


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("shape", "w"), CASES)
def test_planes_are_those_of_the_cpu(
    shape: tuple[int, int, int], w: Windows, axis: int, held: bool
) -> None:
    data = np.random.default_rng(1).normal(0, 1, (1, *shape)).astype(np.float32)
    data = np.flip(data, 2)  # as an orientation leaves it: of strides that PyTorch does not take
    sides = windows.padded(shape, w.patch)
    b, c = (side for i, side in enumerate(sides) if i != axis)
    place = Slab(axis, (w.patch[axis], 2, b, c))
    expected = list(windows.planes(data, w, predict, place))
    given = gpu.hold(data, CPU, torch.float32) if held else data
    done: list[int] = []
    found = list(gpu.planes(given, w, on_tensors, place, CPU, progress=done.append))
    np.testing.assert_allclose(torch.stack(found).numpy(), np.stack(expected), atol=2e-5)
    assert done[-1] == windows.count(shape, w)


def agree(found: Array, expected: Array) -> None:
    """The same but for voxels where two labels are as likely to the last digits of float32."""
    assert found.shape == expected.shape
    assert len(np.unique(expected)) > 1
    assert (found != expected).mean() < 2e-4


REGIONS = {"kind": "regions", "order": [1, 2, 5]}
CHANGES: list[dict[str, Any]] = [
    {},
    {"framework": "monai", "windows": {"overlap": 0.25, "mirror": [0, 2]}},
    {"answer": REGIONS, "label_values": [0, 2, 5]},
    {"answer": {"kind": "sigmoid_threshold", "threshold": 0.6}, "label_values": [0, 1, 5, 700]},
    {"answer": {"kind": "sigmoid_threshold", "written": [2, 0, 1]}, "label_values": [0, 1, 5, 7]},
    {"orientation": "RAS", "transpose_forward": [2, 0, 1], "windows": {"mirror": [1]}},
    {"crop": "nonzero", "channels": [{"name": "MR", "normalisation": {"kind": "zscore_nonzero"}}]},
    {"spacing": [1.5, 1.5, 1.5]},
    {"spacing": [2.0, 0.9, 0.9], "resampling": {"logits": {"order": 0}}},
    {"patch": [24, 20]},
]


@pytest.mark.parametrize("changed", CHANGES)
def test_masks_are_those_of_the_cpu(changed: dict[str, Any]) -> None:
    body = volumes.nifti(volumes.scan())
    agree(mask_of(made(**changed).handler, body), mask_of(handler(names(changed), **changed), body))


@pytest.mark.parametrize("shape", [(5, 40, 33), (21, 7, 9), (3, 24, 20)])
def test_volumes_smaller_than_a_patch(shape: tuple[int, int, int]) -> None:
    body = volumes.nifti(volumes.scan(shape))
    agree(mask_of(made().handler, body), mask_of(handler(), body))


def test_regions_and_thresholds_label_by_label() -> None:
    logits = np.random.default_rng(3).normal(0, 1, (3, 30, 40)).astype(np.float32)
    for changed in CHANGES:
        recipe = made(**changed).handler.recipe
        found = on_device.Labels(recipe, CPU)(torch.from_numpy(logits))
        np.testing.assert_array_equal(found.numpy(), masks.labels(logits, recipe))


def answered(one: Made, accept: str = "") -> tuple[LocalContext, bytes]:
    context = LocalContext(Path(), headers={"accept": accept})
    (body,) = one.handler.handle([{"body": bytearray(volumes.nifti(volumes.scan()))}], context)
    return context, body


def test_values_that_are_not_finite_are_named() -> None:
    one = made()
    one.runtime.scale = float("nan")
    context, body = answered(one)
    assert context.statuses == [500]
    assert "NaN or infinity" in volumes.message(body)


def test_memory_of_the_device_is_stated_and_kept() -> None:
    one = made()
    used = one.handler._segmenter
    assert used is not None
    context, _ = answered(one)
    assert context.statuses == [200]
    assert context.metrics.totals["handler_windows", "Model"] > 1
    stated = int(context.response_headers[0]["X-Device-Memory-Bytes"])
    assert stated == sum(used.needs) > used.needs.accumulators > 0
    used._free = lambda device: used.needs.least
    assert answered(one)[0].statuses == [200]
    used._free = lambda device: used.needs.least - 1
    context, body = answered(one)
    assert context.statuses == [TooLarge.status]
    assert "MiB of the GPU's memory" in volumes.message(body)


def test_out_of_memory_of_the_device_is_told() -> None:
    one = made()

    def run(size: Size) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    one.runtime.run = run  # type: ignore[method-assign]
    assert answered(one)[0].statuses == [507]


def test_windows_go_in_the_largest_batch() -> None:
    one = made()
    used = Segmenter(one.runtime, "INPUT__0", replace(one.handler.recipe))
    assert used._windows.batch == 2
