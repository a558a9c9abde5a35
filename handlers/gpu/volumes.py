"""A prepared volume through a network on a GPU: windows, sums and labels never leave it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from handlers import windows as cpu
from handlers.errors import TooLarge
from handlers.gpu import masks, windows
from handlers.gpu.clock import Clock
from handlers.memory import machine_memory, mib
from handlers.volumes.masks import Mask
from handlers.volumes.preparing import Prepared
from handlers.volumes.recipe import Recipe

if TYPE_CHECKING:
    from handlers.runtimes.device import DeviceRuntime, Size

logger = logging.getLogger(__name__)

PLANES_HELD = 8
"""Planes of logits, float32, in passing: two to interpolate between, and what is made of them."""

INDEX_BYTES = 8
"""Of the channel that argmax finds, for one plane."""


class Needs(NamedTuple):
    """Bytes of device memory that one volume takes, beside the model's own.

    Attributes:
        volume: its voxels, as the model's input has them; what the host can keep instead.
        accumulators: the sums of weighted logits and of weights.
        mask: the answer's voxels.
        passing: weights, patches, their logits, and planes.
    """

    volume: int
    accumulators: int
    mask: int
    passing: int

    @property
    def least(self) -> int:
        """With the volume left in the host's memory."""
        return sum(self) - self.volume


class Network:
    """A runtime's network on tensors of its own device.

    Attributes:
        batch: windows that are predicted together: the largest size that the model was built for.
    """

    def __init__(self, runtime: DeviceRuntime, name: str, recipe: Recipe):
        self._runtime, self._name, self._flat = runtime, name, recipe.flat
        patch = recipe.windows.patch
        self._sides = (len(recipe.channels), *(patch[1:] if recipe.flat else patch))
        self.device = runtime.device
        self.batch = runtime.batches[-1] if runtime.batches else recipe.windows.batch

    @property
    def dtype(self) -> torch.dtype:
        """What the model's input holds: a volume is kept in no more than that."""
        return self._size(self.batch).inputs[self._name].dtype

    def __call__(self, patches: Tensor) -> Tensor:
        """``[n, channels, *patch]`` to logits, the model's own buffer: valid until the next call.

        A 2-D network never sees the depth of 1.
        """
        rows = len(patches)
        size = self._size(next((b for b in self._runtime.batches if b >= rows), rows))
        size.inputs[self._name][:rows].copy_(patches[:, :, 0] if self._flat else patches)
        self._runtime.run(size)
        (logits,) = self._runtime.view(size.outputs, rows).values()
        return logits[:, :, None] if self._flat else logits

    def _size(self, batch: int) -> Size:
        return self._runtime.size({self._name: (batch, *self._sides)})


class Segmenter:
    """Prepared volume -> windows -> mask, on one GPU.

    Args:
        name: of the network's input.
        free: bytes of device memory that can be had now.
    """

    def __init__(
        self,
        runtime: DeviceRuntime,
        name: str,
        recipe: Recipe,
        free: Callable[[torch.device], int] | None = None,
    ):
        self._stream = runtime.stream
        self._network = Network(runtime, name, recipe)
        self._windows = replace(recipe.windows, batch=self._network.batch)
        self._recipe = recipe
        self._free = free or free_memory
        self.needs = Needs(0, 0, 0, 0)

    def segment(self, prepared: Prepared, mask: Mask, progress: Callable[[int], None]) -> float:
        """Fills the mask of the whole volume; ``needs`` then says what it took of the device.

        Args:
            mask: ``[z, y, x]`` of zeros in the host's memory.
            progress: called with the number of windows done.

        Returns:
            Milliseconds that the network took.

        Raises:
            TooLarge: the device has not as much memory free; nothing was taken of it.
            InternalFault: the network's values are not finite.
        """
        try:
            return self._segment(prepared, mask, progress)
        finally:
            _give_back(self._network.device)

    def _segment(self, prepared: Prepared, mask: Mask, progress: Callable[[int], None]) -> float:
        network, recipe = self._network, self._recipe
        place = cpu.slab(prepared.data.shape[1:], self._windows, recipe.outputs)
        self.needs = needs(prepared, recipe, self._windows, place, network.dtype)
        on_device = self._admit()
        clock = Clock(network.device)

        def predict(patches: Tensor) -> Tensor:
            with clock.measure("infer"):
                return network(patches)

        with torch.inference_mode(), _queue(network.device, self._stream):
            data: Any = prepared.data
            if on_device:
                data = windows.hold(data, network.device, network.dtype)
            planes = windows.planes(
                *(data, self._windows, predict, place, network.device, network.dtype, progress)
            )
            masks.write(planes, prepared, recipe, place.axis, mask, network.device)
            return clock.read().get("infer", 0.0)

    def _admit(self) -> bool:
        """Whether the volume can lie on the device."""
        free = self._free(self._network.device)
        if self.needs.least > free:
            raise TooLarge(
                f"this volume needs {mib(self.needs.least)} of the GPU's memory beside the model; "
                f"{mib(free)} are free"
            )
        if sum(self.needs) > free:
            logger.warning(
                "the GPU has %s free and %s are needed: the volume stays in the host's memory, "
                "and its windows are copied one by one",
                *(mib(free), mib(sum(self.needs))),
            )
        return sum(self.needs) <= free


def needs(
    prepared: Prepared, recipe: Recipe, w: cpu.Windows, place: cpu.Slab, dtype: torch.dtype
) -> Needs:
    """Device memory for one volume, in bytes, at most."""
    shape, k = prepared.data.shape, recipe.outputs
    patch = math.prod(w.patch)
    sums = place.bytes // k * (k + 1)
    back = prepared.back
    mask = math.prod(back.after) * masks.held_type(recipe).itemsize
    sides = sorted(max(pair) for pair in zip(back.before, back.after, strict=True))
    plane = sides[1] * sides[2] * (4 * k * PLANES_HELD + INDEX_BYTES)
    logits = 4 * patch * k * (1 + 3 * w.batch * bool(w.mirror))
    patches = patch * shape[0] * w.batch * dtype.itemsize * (1 + bool(w.mirror))
    block = dtype.itemsize * math.prod(shape) // shape[1] * min(windows.BLOCK, shape[1])
    weights = 4 * patch
    volume = math.prod(shape) * dtype.itemsize
    return Needs(volume, sums, mask, plane + logits + patches + block + weights)


def free_memory(device: torch.device) -> int:
    """Bytes that can be had now."""
    if device.type != "cuda":
        return machine_memory()
    _give_back(device)
    return int(torch.cuda.mem_get_info(device)[0])


def _give_back(device: torch.device) -> None:
    """Hands what PyTorch holds unused to the driver: other workers of the GPU need it, too."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _queue(device: torch.device, stream: Any) -> AbstractContextManager[Any]:
    return torch.cuda.stream(stream) if device.type == "cuda" else nullcontext()
