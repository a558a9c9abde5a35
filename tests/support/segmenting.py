"""The segmentation handler around a small network, without an archive or a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from handlers.context import LocalContext
from handlers.runtimes import Loaded
from handlers.runtimes.base import Runtime
from handlers.segmentation import SegmentationHandler
from tests.support import volumes

Array = NDArray[Any]


class Net(Runtime):
    """``volumes.network`` without an archive around it; counts what it is asked."""

    name = "torchscript"
    scale = 1.0

    def activate(self) -> None:
        raise AssertionError("nothing here asks for this")

    def infer(self, inputs: dict[str, Array], every: bool = False) -> dict[str, Array]:
        (x,) = inputs.values()
        assert x.dtype == np.float32
        assert x.flags.c_contiguous
        flat = x.ndim == 4
        with torch.inference_mode():
            y = volumes.network(x.shape[1], flat=flat)(torch.from_numpy(x)).numpy()
        return {"OUTPUT__0": y * self.scale}


def handler(labels: Sequence[str] = volumes.LABELS, **changed: Any) -> SegmentationHandler:
    record = volumes.passport(volumes.settings(**changed), labels)
    runtime = Net(Path(), volumes.PORTABLE, record.inputs)
    return SegmentationHandler(record, Loaded(runtime, volumes.PORTABLE))


def answer(made: SegmentationHandler, body: bytes, accept: str = "") -> tuple[int, bytes]:
    context = LocalContext(Path(), headers={"accept": accept})
    (found,) = made.handle([{"body": bytearray(body)}], context)
    return context.statuses[0], found


def mask_of(made: SegmentationHandler, body: bytes) -> Array:
    status, found = answer(made, body)
    assert status == 200, found
    return volumes.load_mask(found)[0]


def resize(values: NDArray[Any], shape: tuple[int, ...], order: int) -> NDArray[Any]:
    """``skimage.transform.resize(mode="edge", anti_aliasing=False)`` in float64."""
    factors = [new / old for old, new in zip(values.shape, shape, strict=True)]
    done: NDArray[Any] = ndimage.zoom(
        values.astype(float), factors, order=order, mode="nearest", grid_mode=True
    )
    return np.clip(done, values.min(), values.max()) if order > 1 else done
