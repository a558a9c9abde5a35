"""What an engine is asked to be: its profiles, and what it is calibrated on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from repack.backends.tensorrt.request import EngineRequest
from repack.model import Arrays, GpuModel
from repack.options import GpuOptions

SHAPES: dict[str, tuple[int | str, ...]] = {"x": ("batch", 4), "y": (1, "n")}
MODEL = GpuModel(None, SHAPES, {"x": "uint8", "y": "float16"}, ("z",))
REQUEST = EngineRequest(MODEL, "onnx", "f16", (), {"x": ((1, 4),) * 3}, GpuOptions(), [])


def test_one_profile_for_each_batch_or_the_one_that_was_given() -> None:
    assert REQUEST.profiles() == [{"x": ((1, 4),) * 3}]
    fixed = replace(REQUEST, batches=(1, 3), model=replace(MODEL, shapes={"x": ("batch", 4)}))
    assert fixed.profiles() == [{"x": ((n, 4),) * 3} for n in (1, 3)]
    with pytest.raises(Exception, match=r"y: an axis besides the batch .* give --min, --opt"):
        replace(REQUEST, batches=(1,)).profiles()


def test_bytes_are_calibrated_on_as_the_file_takes_them() -> None:
    given: Arrays = {"x": np.array([[0, 255]], np.uint8), "y": np.ones((1, 2), np.float16)}
    (row,) = replace(REQUEST, calibration=[given]).fed()
    assert {k: v.dtype for k, v in row.items()} == {"x": np.float32, "y": np.float16}
    np.testing.assert_array_equal(row["x"], given["x"])
