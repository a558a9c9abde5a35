"""What a GPU's runtime works out without a GPU: how requests fall into the sizes that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handlers.artefact import Artefact, TensorRTOptions
from handlers.passport import TensorSpec
from handlers.runtimes.tensorrt_ import TensorRT

IMAGES = TensorSpec("images", "uint8", ("batch", 640, 640, 3), (0, 255), "NHWC")


def runtime(**options: Any) -> TensorRT:
    told = TensorRTOptions(**{"outputs": (), "built": {}, "engines": (), "via": "onnx", **options})
    found = TensorRT(Path(), Artefact("tensorrt", (), "f16", {}, "tensors", told), (IMAGES,))
    found.batches = sorted(told.batches)
    return found


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (2, 4), (4, 4), (5, 16), (17, 16)])
def test_requests_go_to_the_next_size_and_beyond_it_to_pieces_of_the_largest(
    rows: int, bucket: int
) -> None:
    assert runtime(batches=(1, 4, 16)).bucket(rows) == bucket
    assert runtime(batches=(1, 4, 16)).largest == 16


def test_a_dynamic_profile_has_a_largest_batch_too() -> None:
    shapes = [(n, 3, 640, 640) for n in (1, 4, 8)]
    made = runtime(engines=({"images": shapes},))
    assert made.largest == 8
    assert made.bucket(5) == 5
