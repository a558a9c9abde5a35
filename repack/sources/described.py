"""From a checkpoint that carries its network's description to that network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from repack.networks import box_heads, yolov5
from repack.networks.described import Described, Unknown, classes_of
from repack.sources.checks import check_settings, check_tensors, take_settings
from repack.sources.weights import Weights
from repack.sources.yolov5_layout import canonical

LEFT_OUT = ".anchor_grid"
"""End of a tensor's name that holds others once more, in other units."""


def build(path: Path, weights: Weights, built_from: Mapping[str, Any], read: str) -> Described:
    """The network, with the checkpoint's tensors, in evaluation mode.

    Args:
        read: what the kit reads, for messages.

    Raises:
        Unknown: a description that is not built.
        UnsupportedLayout: tensors or settings that do not fit it.
    """
    tensors = {n: t for n, t in canonical(weights.tensors).items() if not n.endswith(LEFT_OUT)}
    classes = classes_of(built_from, tensors)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        module = Described(built_from, classes)
    if isinstance(head := module.model[-1], (box_heads.Detect, yolov5.Detect)):
        head.strides = strides(weights)
    own = module.state_dict()
    check_tensors(path, f"its own description, with {classes} classes", own, tensors)
    take_settings(path, weights, module)
    check_settings(path, weights, module, read)
    module.load_state_dict({n: tensors[n] for n in own}, strict=True)
    module.eval().requires_grad_(False)
    return module


def strides(weights: Weights) -> tuple[int, ...]:
    """Of the head's maps.

    Raises:
        Unknown: the checkpoint does not say them.
    """
    given = weights.root.state.get("stride") if weights.root is not None else None
    found = given.tolist() if isinstance(given, torch.Tensor) and given.ndim == 1 else []
    if not 1 <= len(found) <= 6 or any(s not in (4, 8, 16, 32, 64, 128) for s in found):
        raise Unknown(f"strides {found}")
    return tuple(int(s) for s in found)
