"""Values of a volume as a network was trained on them, in place and without copies.

The kinds are nnU-Net v2's (``default_normalization_schemes.py``) and MONAI's
``ScaleIntensityRange``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import Unprocessable
from handlers.windows import Pool

LEAST = 1e-8
"""Smallest standard deviation or range that values are divided by."""

Floats = NDArray[np.float32]


def normalise(
    volume: Floats,
    how: Mapping[str, Any],
    inside: NDArray[np.bool_] | None,
    pool: Pool | None = None,
) -> None:
    """Normalises one channel.

    Args:
        volume: ``[a, b, c]``, overwritten.
        how: kind and numbers, as ``recipe.NORMALISATIONS`` names them.
        inside: ``[a, b, c]``, what "zscore_nonzero" is limited to; elsewhere values stay.
        pool: threads that work on planes side by side, where planes do not depend on each other.

    Raises:
        Unprocessable: values beyond 0 to 255 for "rgb_to_0_1".
    """
    kind = how["kind"]
    if kind == "ct":
        _each(volume, lambda plane: _ct(plane, how), pool)
    elif kind == "zscore":
        _shift_and_scale(volume, *_mean_and_deviation(volume, None))
    elif kind == "zscore_nonzero":
        mean, deviation = _mean_and_deviation(volume, inside)
        for i, plane in enumerate(volume):
            where = True if inside is None else inside[i]
            np.subtract(plane, np.float32(mean), out=plane, where=where)
            np.divide(plane, np.float32(deviation), out=plane, where=where)
    elif kind == "rescale_0_1":
        _shift_and_scale(volume, volume.min(), 1)
        volume /= np.float32(max(volume.max(), LEAST))
    elif kind == "rgb_to_0_1":
        low, high = volume.min(), volume.max()
        if low < 0 or high > 255:
            raise Unprocessable(f"values from {low:g} to {high:g} came; expected 0 to 255")
        volume /= np.float32(255)
    elif kind == "scale_range":
        _each(volume, lambda plane: _scale_range(plane, how), pool)


def _each(volume: Floats, change: Callable[[Floats], None], pool: Pool | None) -> None:
    """Changes plane after plane: each is still in the processor's cache for the next step."""
    if pool is None:
        for plane in volume:
            change(plane)
    else:
        list(pool.executor.map(change, volume))


def _ct(plane: Floats, how: Mapping[str, Any]) -> None:
    np.clip(plane, how["lower"], how["upper"], out=plane)
    _shift_and_scale(plane, how["mean"], max(how["std"], LEAST))


def _shift_and_scale(volume: Floats, mean: float, deviation: float) -> None:
    volume -= np.float32(mean)
    volume /= np.float32(deviation)


def _scale_range(volume: Floats, how: Mapping[str, Any]) -> None:
    """From a_min..a_max to b_min..b_max; beyond only where "clip" is not asked for."""
    low, high = how["b_min"], how["b_max"]
    _shift_and_scale(volume, how["a_min"], how["a_max"] - how["a_min"])
    volume *= np.float32(high - low)
    volume += np.float32(low)
    if how.get("clip"):
        np.clip(volume, low, high, out=volume)


def _mean_and_deviation(volume: Floats, inside: NDArray[np.bool_] | None) -> tuple[float, float]:
    """Mean and standard deviation (at least ``LEAST``), summed plane by plane in float64."""

    def values(i: int) -> Floats:
        found: Floats = volume[i] if inside is None else volume[i][inside[i]]
        return found

    planes = range(len(volume))
    count = volume.size if inside is None else int(inside.sum())
    if count == 0:
        return 0.0, 1.0
    mean = sum(float(values(i).sum(dtype=np.float64)) for i in planes) / count
    squares = sum(float(np.square(values(i) - mean, dtype=np.float64).sum()) for i in planes)
    return mean, max(float(np.sqrt(squares / count)), LEAST)
