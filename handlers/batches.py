"""Batches for a model that takes a fixed number of items at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.passport import TensorSpec


def of(spec: TensorSpec, items: NDArray[Any]) -> Iterator[tuple[NDArray[Any], int]]:
    """The items as the model takes them, and how many of each batch are theirs.

    Args:
        spec: the model's input; where its first axis is a number, the last batch is filled with
            zeros up to it.
        items: ``[N, ...]``.
    """
    size = spec.shape[0]
    if isinstance(size, str):
        yield items, len(items)
        return
    for begin in range(0, len(items), size):
        part = items[begin : begin + size]
        missing = np.zeros((size - len(part), *items.shape[1:]), items.dtype)
        yield np.concatenate([part, missing]) if len(missing) else part, len(part)
