"""From logits to a mask on the volume's own grid, plane by plane."""

from __future__ import annotations

from collections.abc import Iterator

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
    r, bundle = recipe.logits, recipe.bundle
    if bundle is not None:
        planes = bundles.finished(planes, bundle, prepared.cut, axis)
    axes = resampling.blends(prepared.back, r.order, r.order_z, r.separate_z)
    inner = [blend for i, blend in enumerate(axes) if i != axis]
    ordered: list[Blend] = [axes[axis], *inner]
    target = np.moveaxis(prepared.turn(mask)[prepared.box], axis, 0)
    for place, plane in zip(target, resampling.blend_planes(planes, ordered), strict=True):
        if not np.isfinite(plane).all():
            raise InternalFault(
                "the network gave NaN or infinity for this volume: its precision overflows; "
                "repack it in bf16 or f32"
            )
        place[...] = labels(plane, recipe)


def labels(logits: Floats, recipe: Recipe) -> Mask:
    """``[k, b, c]`` logits, or what a bundle inverts, to ``[b, c]`` label values.

    argmax: the value of the largest; the first where several are. regions and sigmoid_threshold:
    each channel above its threshold writes its value, later ones over earlier ones.
    """
    kind = mask_type(recipe)
    answer = recipe.answer
    if recipe.bundle is not None:
        values = np.array(recipe.values, kind)
        return np.asarray(values[bundles.chosen(logits, recipe.bundle, answer)])
    if answer["kind"] == "argmax":
        return np.asarray(np.array(recipe.values, kind)[logits.argmax(axis=0)])
    share = float(answer.get("threshold", 0.5))
    above = np.log(share / (1 - share))
    order = answer["order"] if answer["kind"] == "regions" else recipe.values[1:]
    found = np.full(logits.shape[1:], recipe.values[0], kind)
    for channel, value in zip(logits, order, strict=True):
        found[channel > above] = value
    return found
