"""From logits to a mask on the volume's own grid, plane by plane."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers import resampling
from handlers.errors import InternalFault
from handlers.resampling import Blend
from handlers.volumes import bundles
from handlers.volumes.preparing import Prepared, mask_type
from handlers.volumes.recipe import Recipe

Floats = NDArray[np.float32]
Mask = NDArray[np.uint8] | NDArray[np.uint16]

NOT_FINITE = (
    "the network gave NaN or infinity for this volume: its precision overflows; "
    "repack it in bf16 or f32"
)


def write(
    planes: Iterator[Floats], prepared: Prepared, recipe: Recipe, axis: int, mask: Mask
) -> None:
    """Fills the mask of the whole volume.

    Args:
        planes: logits ``[k, *]`` of the network's grid along ``axis``, in order.
        mask: ``[z, y, x]`` of zeros, overwritten where the crop lies.

    Raises:
        InternalFault: the network's values are not finite.
    """
    if recipe.bundle is not None:
        planes = bundles.finished(planes, recipe.bundle, prepared.cut, axis)
    ordered = blends(prepared, recipe, axis)
    target = np.moveaxis(prepared.turn(mask)[prepared.box], axis, 0)
    blended = resampling.blend_planes(planes, ordered, resampling.blend_plane)
    for place, plane in zip(target, blended, strict=True):
        if not np.isfinite(plane).all():
            raise InternalFault(NOT_FINITE)
        place[...] = labels(plane, recipe)


def blends(prepared: Prepared, recipe: Recipe, axis: int) -> list[Blend]:
    """How the logits come back to the volume's grid: along ``axis``, then the other two."""
    r = recipe.logits
    axes = resampling.blends(prepared.back, r.order, r.order_z, r.separate_z)
    return [axes.pop(axis), *axes]


def labels(logits: Floats, recipe: Recipe) -> Mask:
    """``[k, b, c]`` logits, or what a bundle inverts, to ``[b, c]`` label values.

    argmax: the value of the largest; the first where several are. regions and sigmoid_threshold:
    each channel above its threshold writes its value, in the order of ``sequence``.
    """
    kind = mask_type(recipe)
    answer = recipe.answer
    if recipe.bundle is not None:
        return np.asarray(
            np.array(recipe.values, kind)[bundles.chosen(logits, recipe.bundle, answer)]
        )
    if answer["kind"] == "argmax":
        return np.asarray(np.array(recipe.values, kind)[logits.argmax(axis=0)])
    found = np.full(logits.shape[1:], recipe.values[0], kind)
    values = order(recipe)
    for i in sequence(recipe.answer, len(values)):
        found[logits[i] > threshold(recipe)] = values[i]
    return found


def order(recipe: Recipe) -> Sequence[int]:
    """The value that each channel writes, where several channels may be above their threshold."""
    regions = recipe.answer["kind"] == "regions"
    return recipe.answer["order"] if regions else recipe.values[1:]


def sequence(answer: Mapping[str, Any], channels: int) -> list[int]:
    """The channels in the order in which they are written, later ones over earlier ones."""
    return list(answer.get("written", range(channels)))


def threshold(recipe: Recipe) -> float:
    """The logit that a channel must be above, for its share (0.5 where none is given)."""
    share = float(recipe.answer.get("threshold", 0.5))
    return float(np.float32(np.log(share / (1 - share))))
