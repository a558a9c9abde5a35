"""What MONAI's bundles do otherwise than nnU-Net: the order of steps, the crop, what is inverted.

A bundle's config gives the order of its pre-transforms (``Spacingd``, ``CropForegroundd`` and one
that normalises), and its post-transforms take logits, probabilities or the mask itself back to the
scan's grid (``Invertd``). Both change masks, at edges above all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import Unprocessable
from handlers.resampling import Grids

Floats = NDArray[np.float32]

CLOSE = 1e-3
"""MONAI's ``AFFINE_TOL``: mm and voxels that are no difference to it."""

SHEARED = 0.05
"""Voxels by which the axes may miss right angles from one end of the scan to the other."""

INVERTED = ("logits", "softmax", "sigmoid", "mask")
"""What ``Invertd`` is applied to."""


@dataclass(frozen=True)
class Bundle:
    """The part of a recipe that only bundles have.

    Attributes:
        order: "spacing", "crop" and "normalise", as the bundle has them; "crop" never before
            "spacing".
        margin: voxels around the foreground, along the network's axes; None crops nothing.
        inside: whether the margin ends at the scan's edge; otherwise zeros surround the scan.
        inverted: one of ``INVERTED``.
    """

    order: tuple[str, ...]
    margin: tuple[int, ...] | None
    inside: bool
    inverted: str


@dataclass(frozen=True)
class Cut:
    """A crop on the network's grid.

    Attributes:
        first: where it begins along each axis, negative where it begins before the grid.
        shape: its sides.
        whole: the grid's sides.
    """

    first: tuple[int, ...]
    shape: tuple[int, ...]
    whole: tuple[int, ...]


def read(settings: Mapping[str, Any]) -> Bundle | None:
    """The settings under "monai"; None for other frameworks.

    Raises:
        ValueError, KeyError, TypeError: a field is missing or cannot be.
    """
    if settings.get("framework") != "monai" or "monai" not in settings:
        return None
    given = settings["monai"]
    order = tuple(step for step in given["order"] if step != "orientation")
    known = {"spacing", "normalise", "crop"}
    if set(order) - known or given["invert_at"] not in INVERTED:
        raise ValueError(f"order {order}, invert_at {given['invert_at']!r}")
    if "crop" in order and "spacing" in order[order.index("crop") :]:
        raise ValueError("a crop before the spacing")
    crop = given.get("crop")
    if crop is None:
        return Bundle(order, None, False, given["invert_at"])
    margin = tuple(int(m) for m in crop["margin"])
    return Bundle(order, margin, bool(crop["allow_smaller"]), given["invert_at"])


def spaced(shape: Sequence[int], affine: NDArray[np.float64], target: Sequence[float]) -> Grids:
    """The grid that MONAI's ``Spacing`` makes of another, as its ``compute_shape_offset`` does.

    The new grid begins at the corner from which all axes grow. An obliquely placed scan has no such
    corner as soon as its axes are not at right angles to the last digits, which is usual for a file
    with 32-bit numbers: then the centres of both grids are put together.

    Args:
        shape: voxels along the network's axes.
        affine: ``[4, 4]``, from voxels along the same axes to mm.
        target: mm along them.

    Raises:
        Unprocessable: the axes are so far from right angles that the volume would be sheared.
    """
    turned = affine[:3, :3]
    sizes = np.sqrt((turned * turned).sum(axis=0))
    wanted = np.where(np.abs(sizes - target) <= CLOSE, sizes, target)
    upper = np.linalg.cholesky(turned.T @ turned).T
    new = np.eye(4)
    new[:3, :3] = turned @ np.linalg.inv(upper) @ np.diag(np.sign(np.diag(upper)) * wanted)
    ends = np.meshgrid(*((0.0, n - 1.0) for n in shape), indexing="ij")
    corners = np.concatenate([np.reshape(ends, (3, -1)), np.ones((1, 8))])
    seen = (np.linalg.solve(new, affine) @ corners)[:3]
    after = np.round(np.ptp(seen, axis=1) + 1.0)
    least = [(seen - seen[:, i : i + 1]).min(axis=1) for i in range(8)]
    first = next((i for i, corner in enumerate(least) if np.allclose(corner, 0.0)), None)
    if first is not None:
        new[:3, 3] = (affine @ corners)[:3, first]
    else:
        middle = turned @ (np.array(shape) / 2.0) + affine[:3, 3]
        new[:3, 3] = middle - new[:3, :3] @ (after / 2.0)
    way = np.linalg.solve(affine, new)
    sides = tuple(int(n) for n in after)
    aside = np.abs(way[:3, :3] - np.diag(np.diag(way))[:3, :3]) @ (after - 1)
    if aside.max() > SHEARED:
        raise Unprocessable(
            f"the scan's axes are not at right angles ({aside.max():.2g} voxels from it at its "
            "end), and the network wants another spacing: resample the scan to a straight grid"
        )
    kept = np.allclose(way, np.eye(4), atol=CLOSE) or np.allclose(affine, new, atol=CLOSE)
    old = tuple(float(mm) for mm in sizes)
    if kept and sides == tuple(shape):
        return Grids(sides, sides, old, old, "monai")
    ratio = np.diag(way)[:3]
    found = tuple(float(mm) for mm in sizes * ratio)
    return Grids(tuple(shape), sides, old, found, "monai", tuple(float(f) for f in way[:3, 3]))


def largest(sides: Sequence[int], bundle: Bundle | None) -> tuple[int, ...]:
    """The network's grid with the widest margin that the crop may put around it."""
    if bundle is None or bundle.margin is None or bundle.inside:
        return tuple(sides)
    return tuple(n + 2 * m for n, m in zip(sides, bundle.margin, strict=True))


def cut(data: Floats, bundle: Bundle) -> tuple[Floats, Cut]:
    """The foreground (any channel above 0) with its margin, and where it was.

    As MONAI's ``generate_spatial_bounding_box``; a scan without foreground stays whole.
    """
    whole = data.shape[1:]
    above: NDArray[np.bool_] = np.any(data > 0, axis=0)
    if bundle.margin is None or not above.any():
        return data, Cut((0,) * 3, whole, whole)
    first, last = [], []
    for axis, margin in enumerate(bundle.margin):
        others = tuple(other for other in range(3) if other != axis)
        hit = np.flatnonzero(np.any(above, axis=others))
        ends = int(hit[0]) - margin, int(hit[-1]) + 1 + margin
        if bundle.inside:
            ends = max(ends[0], 0), min(ends[1], whole[axis])
        first.append(ends[0])
        last.append(ends[1])
    shape = tuple(b - a for a, b in zip(first, last, strict=True))
    found = Cut(tuple(first), shape, whole)
    kept = np.zeros((len(data), *shape), np.float32)
    here, there = _overlap(found, range(3))
    kept[here] = data[there]
    return kept, found


def finished(
    planes: Iterator[Floats], bundle: Bundle, place: Cut | None, axis: int
) -> Iterator[Floats]:
    """The planes that are taken back to the scan's grid.

    Args:
        planes: logits ``[k, b, c]`` along ``axis`` of the (cropped) network's grid, in order.

    Yields:
        What ``bundle.inverted`` says, of the whole grid: probabilities ``[k, b, c]``, or the mask's
        label as ``[1, b, c]``. Zero outside of the crop.
    """
    done = (_stage(plane, bundle.inverted) for plane in planes)
    return done if place is None else _uncut(done, place, axis)


def chosen(values: Floats, bundle: Bundle, answer: Mapping[str, Any]) -> NDArray[np.intp]:
    """``[b, c]`` positions in the list of labels, of what ``finished`` gave, on the scan's grid."""
    if bundle.inverted == "mask":
        return np.asarray(values[0].round().astype(np.intp))
    if answer["kind"] == "argmax":
        return np.asarray(values.argmax(axis=0))
    share = float(answer["threshold"])
    least = share if bundle.inverted == "sigmoid" else np.log(share / (1 - share))
    return np.asarray((values[0] >= least).astype(np.intp))


def _stage(logits: Floats, inverted: str) -> Floats:
    if inverted == "softmax":
        powers = np.exp(logits - logits.max(axis=0))
        return np.asarray(powers / powers.sum(axis=0))
    if inverted == "sigmoid":
        return _sigmoid(logits)
    if inverted == "logits":
        return logits
    one = (_sigmoid(logits[0]) >= 0.5) if len(logits) == 1 else logits.argmax(axis=0)
    odd = ~np.isfinite(logits).all(axis=0)  # stays visible to whoever checks
    return np.where(odd, np.nan, one).astype(np.float32)[None]


def _sigmoid(values: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-values)))


def _overlap(place: Cut, axes: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where crop and grid meet, all channels and along ``axes``: in the crop, and in the grid."""
    inner, outer = [slice(None)], [slice(None)]
    for axis in axes:
        begin = max(place.first[axis], 0)
        end = min(place.first[axis] + place.shape[axis], place.whole[axis])
        inner.append(slice(begin - place.first[axis], end - place.first[axis]))
        outer.append(slice(begin, end))
    return tuple(inner), tuple(outer)


def _uncut(planes: Iterator[Floats], place: Cut, axis: int) -> Iterator[Floats]:
    across = [other for other in range(3) if other != axis]
    here, there = _overlap(place, across)
    sides = [place.whole[other] for other in across]
    (_, taken), (_, into) = _overlap(place, [axis])
    empty: Floats | None = None
    position = into.start
    for number, plane in enumerate(planes):
        if empty is None:
            empty = np.zeros((len(plane), *sides), np.float32)
            yield from (empty for _ in range(position))
        if taken.start <= number < taken.stop:
            full = np.zeros_like(empty)
            full[there] = plane[here]
            position += 1
            yield full
    if empty is not None:
        yield from (empty for _ in range(place.whole[axis] - position))
