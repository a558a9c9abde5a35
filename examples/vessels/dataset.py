"""Cases in memory, made by a pool of processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from examples.vessels.cases import Shape, case


def _made(job: tuple[int, int, Shape]) -> tuple[int, NDArray[np.int16], NDArray[np.uint8]]:
    made = case(*job)
    return job[1], made.scan, made.labels


def make(
    seed: int, count: int, shape: Shape, processes: int
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Cases 0 to ``count - 1`` of a series, made by ``processes`` forked processes.

    Call it before CUDA is initialised and before PyTorch has started threads of its own: the
    processes are forks.

    Returns:
        Scans ``int16 [count, Z, Y, X]`` in Hounsfield units and labels ``uint8 [count, Z, Y, X]``.
    """
    scans, labels = np.empty((count, *shape), np.int16), np.empty((count, *shape), np.uint8)
    jobs: Iterable[tuple[int, int, Shape]] = ((seed, i, shape) for i in range(count))
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for done, (index, scan, label) in enumerate(pool.imap_unordered(_made, jobs), 1):
            scans[index], labels[index] = scan, label
            if done % 50 == 0 or done == count:
                print(f"{done} of {count} cases of {'x'.join(map(str, shape))}", flush=True)
    return scans, labels
