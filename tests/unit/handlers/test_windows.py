"""The sliding window against a direct run that holds every sum at once."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from handlers import windows
from handlers.windows import Slab, Windows
from tests.support.windowing import CASES, predict

EVERY = (slice(None),)


def weights(w: Windows) -> NDArray[Any]:
    """Importance as nnU-Net makes it, by filtering one spike; MONAI's by its formula."""
    if not w.gaussian:
        return np.ones(w.patch)
    if w.rule == "nnunet":
        spike = np.zeros(w.patch)
        spike[tuple(side // 2 for side in w.patch)] = 1
        found = ndimage.gaussian_filter(
            spike, [w.sigma * s for s in w.patch], mode="constant", truncate=8
        )
        return np.asarray(found / found.max())
    axes = [np.arange(s) - (s - 1) / 2 for s in w.patch]
    curves = [
        np.exp(-(a**2) / (2 * (w.sigma * s) ** 2)) for a, s in zip(axes, w.patch, strict=True)
    ]
    whole = curves[0][:, None, None] * curves[1][:, None] * curves[2]
    return np.asarray(np.maximum(whole / whole.max(), 1e-3))


def direct(data: NDArray[np.float32], w: Windows) -> NDArray[Any]:
    """Padded, every window added to sums as large as the volume."""
    shape = data.shape[1:]
    sides = [max(n, p) for n, p in zip(shape, w.patch, strict=True)]
    margin = [(s - n) // 2 for s, n in zip(sides, shape, strict=True)]
    inside = tuple(slice(m, m + n) for m, n in zip(margin, shape, strict=True))
    whole = np.zeros((1, *sides), np.float32)
    whole[EVERY + inside] = data
    sums, total = np.zeros((2, *sides)), np.zeros(sides)
    begins = [windows.starts(s, p, w.overlap, w.rule) for s, p in zip(sides, w.patch, strict=True)]
    axes = [axis + 2 for axis in w.mirror]
    flips = [f for n in range(len(axes) + 1) for f in itertools.combinations(axes, n)]
    for begin in itertools.product(*begins):
        here = tuple(slice(b, b + p) for b, p in zip(begin, w.patch, strict=True))
        x = whole[EVERY + here][None]
        mean = np.mean([np.flip(predict(np.flip(x, f)), f) for f in flips], axis=0)
        sums[EVERY + here] += mean[0] * weights(w)
        total[here] += weights(w)
    return np.asarray((sums / total)[EVERY + inside])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("shape", "w"), CASES)
def test_slab_by_slab_gives_what_all_at_once_gives(
    shape: tuple[int, int, int], w: Windows, axis: int
) -> None:
    data = np.random.default_rng(1).normal(0, 1, (1, *shape)).astype(np.float32)
    sides = windows.padded(shape, w.patch)
    b, c = (side for i, side in enumerate(sides) if i != axis)
    place = Slab(axis, (w.patch[axis], 2, b, c))
    done: list[int] = []
    planes = list(windows.planes(data, w, predict, place, done.append))
    with ThreadPoolExecutor(3) as executor:
        pool = windows.Pool(executor, 3)
        shared = windows.planes(data, w, predict, place, pool=pool)
        np.testing.assert_array_equal(np.stack(list(shared)), np.stack(planes))
    found = np.moveaxis(np.stack(planes, axis=1), 1, axis + 1)
    np.testing.assert_allclose(found, direct(data, w), atol=1e-4)
    assert done[-1] == windows.count(shape, w)


@pytest.mark.parametrize(
    ("size", "patch", "overlap", "rule", "expected"),
    [
        (110, 64, 0.5, "nnunet", [0, 23, 46]),
        (64, 64, 0.5, "nnunet", [0]),
        (65, 64, 0.5, "nnunet", [0, 1]),
        (128, 64, 0.0, "nnunet", [0, 64]),
        (110, 64, 0.5, "monai", [0, 32, 46]),
        (110, 64, 0.25, "monai", [0, 46]),
        (64, 64, 0.5, "monai", [0]),
    ],
)
def test_where_windows_begin(
    size: int, patch: int, overlap: float, rule: str, expected: list[int]
) -> None:
    assert windows.starts(size, patch, overlap, rule) == expected


def test_the_slab_moves_along_the_axis_that_needs_least() -> None:
    w = Windows((96, 96, 96))
    place = windows.slab((128, 256, 256), w, outputs=2)
    assert place.axis in (1, 2)
    assert place.bytes == 4 * 2 * 96 * 128 * 256


def test_weights_are_never_zero() -> None:
    for rule in ("nnunet", "monai"):
        weights = windows.Importance(Windows((128, 128, 128), rule=rule))
        found = np.stack([weights.plane(d) for d in range(len(weights))])
        assert found.min() > 0
        assert found.max() == 1
