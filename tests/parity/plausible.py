"""Networks of random weights that find something: what their makers' scripts have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SHARE, LOGIT = 0.01, -1.1
"""Of the cells, how many are more confident than 0.25, and what that is before the sigmoid."""


def found(folder: Path) -> list[Path]:
    """The pictures in a folder."""
    return sorted(p for suffix in ("png", "jpg") for p in folder.glob(f"*.{suffix}"))


def statistics(network: nn.Module, ask: Callable[[], Any]) -> None:
    """Draws the batch norms, and gives them the statistics of what the network is asked."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.3
        nn.init.uniform_(norm.weight, 0.8, 1.6)
        nn.init.normal_(norm.bias, 0, 0.3)
        norm.train()
    with torch.no_grad():
        for _ in range(8):
            ask()
    for norm in norms:
        norm.eval()


def confident(last: Any, axis: int, ask: Callable[[], Any], share: float = SHARE) -> None:
    """Draws the layer of a head that gives class scores, and shifts them until so many cells are
    confident.

    Args:
        axis: of the classes.
    """
    seen: list[Tensor] = []
    nn.init.normal_(last.weight, 0, 0.15)
    hook = last.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        ask()
    hook.remove()
    if not seen:
        return
    best = seen[0].movedim(axis, 0).flatten(1).max(0).values.sort(descending=True).values
    with torch.no_grad():
        last.bias -= best[max(1, int(len(best) * share))] - LOGIT


def write(path: Path, answers: Mapping[str, Any]) -> None:
    """What a package answers to each picture, as ``compare_detectors.py`` reads it."""
    path.write_text(json.dumps(answers))
