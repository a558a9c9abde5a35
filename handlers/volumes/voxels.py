"""From the bytes after a header to finite float32 voxels, one plane at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import Unprocessable
from handlers.volumes.bounds import Stream
from handlers.volumes.geometry import Layout

Scale = Callable[[NDArray[Any]], NDArray[Any]]
"""From stored values, as float64, to real ones."""


def read_voxels(
    stream: Stream, layout: Layout, scale: Scale | None = None, interleaved: bool = False
) -> NDArray[np.float32]:
    """The voxels that a header promises.

    Args:
        stream: stands at the first voxel.
        interleaved: a voxel's channels lie side by side; otherwise channel follows channel.

    Returns:
        ``[channels, z, y, x]`` float32; besides it, two stored planes are all that is held.

    Raises:
        BadInput: fewer or more bytes than the header claims.
        Unprocessable: NaN or infinity, or values beyond float32.
    """
    stream.claim(layout.stored_bytes)
    count, (depth, height, width) = layout.channels, layout.geometry.shape
    out = np.empty((count, depth, height, width), np.float32)
    if interleaved:
        several = np.empty((height, width, count), layout.stored)
        for z in range(depth):
            stream.read_into(several)
            for c in range(count):
                store(out[c, z], several[..., c], scale, z)
    else:
        _read_planes(stream, out, layout.stored, scale)
    stream.finish()
    return out


def _read_planes(
    stream: Stream, out: NDArray[np.float32], stored: np.dtype[Any], scale: Scale | None
) -> None:
    """One plane is unpacked while a thread of its own stores the one before."""
    pair = [np.empty(out.shape[2:], stored) for _ in range(2)]
    with ThreadPoolExecutor(1, "voxels") as storing:
        waiting: Future[None] | None = None
        for i, (c, z) in enumerate(itertools.product(*map(range, out.shape[:2]))):
            plane = pair[i % 2]
            stream.read_into(plane)
            if waiting:
                waiting.result()
            waiting = storing.submit(store, out[c, z], plane, scale, z)
        if waiting:
            waiting.result()


def store(target: NDArray[np.float32], values: NDArray[Any], scale: Scale | None, z: int) -> None:
    """Writes the stored values of plane ``z`` as float32; scaled ones are computed in float64.

    Raises:
        Unprocessable: with the place of the first NaN or infinity of the plane.
    """
    with np.errstate(all="ignore"):  # what overflows becomes infinite, and is refused
        target[...] = scale(values.astype(np.float64)) if scale else values
    if np.isfinite(target).all():
        return
    bad = np.argwhere(~np.isfinite(target))
    y, x = (int(n) for n in bad[0])
    raise Unprocessable(
        f"{target[y, x]} at voxel x={x}, y={y}, z={z}, and {len(bad) - 1} more in that plane; "
        "expected finite values"
    )
