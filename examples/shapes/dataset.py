"""The training set in memory: thousands of scenes made by a pool of processes."""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from examples.shapes.backgrounds import Picture
from examples.shapes.scenes import scene

SIDE = 640
MOST = 16
"""Rows of the padded targets; a scene holds at most 14 shapes."""
GREY = 114
"""The letterbox's fill, as the kit's detection handler uses it."""
_FRAMES = ((640, 640), (640, 640), (640, 640), (640, 480), (480, 640), (640, 360), (360, 640))

_memory: dict[str, NDArray[Any]] = {}
"""The arrays that the forked processes fill, by name."""


def letterboxed(seed: int, index: int, square: bool) -> tuple[Picture, NDArray[np.float32]]:
    """A scene on a 640 x 640 canvas, grey where the scene is not square.

    Returns:
        The picture, ``uint8 [3, 640, 640]`` RGB, and the targets, ``float32 [MOST, 5]``: class,
        then x1, y1, x2, y2 in pixels of the canvas; unused rows have class -1.
    """
    width, height = (SIDE, SIDE) if square else _FRAMES[index % len(_FRAMES)]
    picture, boxes, classes = scene(seed, index, width, height)
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    canvas = np.full((SIDE, SIDE, 3), GREY, np.uint8)
    canvas[top : top + height, left : left + width] = picture
    targets = np.full((MOST, 5), -1, np.float32)
    targets[: len(boxes), 0] = classes
    targets[: len(boxes), 1:] = boxes + np.array([left, top, left, top], np.float32)
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)), targets


def _shared(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[np.generic]:
    """Zeroed memory that forked processes share (anonymous, so /dev/shm's size does not matter)."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape)


def _fill(job: tuple[int, int, bool]) -> int:
    seed, index, square = job
    _memory["pictures"][index], _memory["targets"][index] = letterboxed(seed, index, square)
    return index


def make(
    seed: int, count: int, processes: int, square: bool = False
) -> tuple[Picture, NDArray[np.float32]]:
    """Scenes 0 to ``count - 1`` of a series, made by ``processes`` forked processes.

    Call it before CUDA is initialised: the processes are forks.

    Returns:
        Pictures ``uint8 [count, 3, 640, 640]`` and targets ``float32 [count, MOST, 5]`` as
        ``letterboxed`` gives them.
    """
    pictures = _shared((count, 3, SIDE, SIDE), np.uint8).view(np.uint8)
    targets = _shared((count, MOST, 5), np.float32).view(np.float32)
    _memory.update(pictures=pictures, targets=targets)
    jobs: Iterable[tuple[int, int, bool]] = ((seed, i, square) for i in range(count))
    cv2.setNumThreads(1)
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for done, _ in enumerate(pool.imap_unordered(_fill, jobs, chunksize=32), 1):
            if done % 5000 == 0 or done == count:
                print(f"{done} of {count} scenes", flush=True)
    _memory.clear()
    return pictures, targets


def anchors_for(targets: NDArray[np.float32], rounds: int = 30) -> NDArray[np.float32]:
    """Nine anchors fitted to the boxes: k-means of log width and height, sorted by area.

    Args:
        targets: ``float32 [N, MOST, 5]``, as ``make`` gives them.
        rounds: iterations of k-means.

    Returns:
        ``float32 [3, 3, 2]``: per scale (stride 8, 16, 32) three widths and heights, whole pixels.
    """
    rows = targets[targets[..., 0] >= 0]
    points = np.log(np.maximum(rows[:, 3:5] - rows[:, 1:3], 2.0))
    order = np.argsort(points.sum(1))
    centres = points[order[np.linspace(0, len(order) - 1, 11).astype(int)[1:-1]]]
    for _ in range(rounds):
        nearest = ((points[:, None] - centres) ** 2).sum(2).argmin(1)
        centres = np.stack(
            [points[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(9)]
        )
    centres = centres[np.argsort(centres.sum(1))]
    return np.asarray(np.round(np.exp(centres)).reshape(3, 3, 2), np.float32)
