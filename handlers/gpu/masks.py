"""From logits on a device to a mask, as ``handlers.volumes.masks`` makes it on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from handlers import resampling
from handlers.errors import InternalFault
from handlers.gpu.windows import BLOCK
from handlers.resampling import Blend
from handlers.volumes import masks
from handlers.volumes.preparing import Prepared, mask_type
from handlers.volumes.recipe import Recipe


def held_type(recipe: Recipe) -> torch.dtype:
    """Of the mask on the device: what there is next to uint16 is int32."""
    return torch.uint8 if mask_type(recipe) == np.uint8 else torch.int32


def write(
    planes: Iterator[Tensor],
    prepared: Prepared,
    recipe: Recipe,
    axis: int,
    mask: masks.Mask,
    device: torch.device,
) -> None:
    """Fills the mask of the whole volume; only label values leave the device, but of MONAI bundles.

    Args:
        planes: logits ``[k, *]`` of the network's grid along ``axis``, in order.
        mask: ``[z, y, x]`` of zeros in the host's memory, overwritten where the crop lies.

    Raises:
        InternalFault: the network's values are not finite.
    """
    if recipe.bundle is not None:  # a bundle's own last steps are the CPU's
        host = (plane.cpu().numpy() for plane in planes)
        return masks.write(host, prepared, recipe, axis, mask)
    ordered = masks.blends(prepared, recipe, axis)
    held = torch.empty(prepared.back.after, dtype=held_type(recipe), device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    labels = Labels(recipe, device)
    blended = resampling.blend_planes(planes, ordered, Mixer(ordered[1:], device))
    for place, plane in zip(held.movedim(axis, 0), blended, strict=True):
        finite &= torch.isfinite(plane).all()
        place.copy_(labels(plane))
    if not bool(finite):
        raise InternalFault(masks.NOT_FINITE)
    target = prepared.turn(mask)[prepared.box]
    for i in range(0, len(target), BLOCK):
        target[i : i + BLOCK] = held[i : i + BLOCK].cpu().numpy()


class Labels:
    """From ``[k, b, c]`` logits to ``[b, c]`` values, as ``handlers.volumes.masks.labels``."""

    def __init__(self, recipe: Recipe, device: torch.device):
        self._recipe = recipe
        self._kind = held_type(recipe)
        self._values = torch.tensor(recipe.values, dtype=self._kind, device=device)
        self._above = masks.threshold(recipe)

    def __call__(self, logits: Tensor) -> Tensor:
        if self._recipe.answer["kind"] == "argmax":
            return self._values[logits.argmax(0)]
        found = self._values[0].repeat(logits.shape[1:])
        values = masks.order(self._recipe)
        for i in masks.sequence(self._recipe.answer, len(values)):
            found.masked_fill_(logits[i] > self._above, values[i])
        return found


class Mixer:
    """``handlers.resampling.blend_plane`` on a device; what it takes is copied there once."""

    def __init__(self, inner: Sequence[Blend], device: torch.device):
        self._axes = [
            (blend, [torch.from_numpy(np.asarray(part)).to(device) for part in blend])
            for blend in inner
        ]

    def __call__(self, plane: Tensor, inner: Sequence[Blend]) -> Tensor:
        for axis, (blend, (low, high, share)) in enumerate(self._axes, 1):
            if blend.same and plane.shape[axis] == len(low):
                continue
            mixed = plane.index_select(axis, low)
            if blend.share.any():
                weight = share[:, None] if axis == 1 else share
                mixed *= 1 - weight
                mixed += plane.index_select(axis, high) * weight
            plane = mixed
        return plane
