"""Arrays as samples of any model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from repack.model import Model
from repack.samples import ARRAYS, Sample, arrays, read_each


def read(folder: Path, model: Model, flag: str) -> list[Sample]:
    """Every ``.npy`` and ``.npz`` file; as ``Task.read_samples``."""
    return read_each(folder, flag, ARRAYS, lambda path: arrays(path, model))


def example(model: Model, samples: Sequence[Sample], folder: Path) -> Path:
    """As ``Task.example``."""
    if samples:
        return samples[0].path.resolve()
    path = folder / "example.npz"
    np.savez(path, **model.random_inputs(seed=2))  # type: ignore[arg-type]
    return path
