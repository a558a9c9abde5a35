"""Rows of best-N lists, matched: equal scores come in any order, and at the end one for another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from repack.model import Arrays

MOST = 2000
"""Rows up to which they are matched: the work grows with their square."""

TIE = 1e-4
"""Difference of scores up to which the last rows of two lists may be other ones."""


def matched(
    originals: Sequence[Arrays], converted: Sequence[Arrays], names: Sequence[str]
) -> list[Arrays]:
    """The converted answers with their rows in the order of the original's.

    Outputs ``[N, K]`` and ``[N, K, C]`` with one N and K are the columns of one list, as exports of
    detectors with their best boxes chosen inside have them. Rows are paired so that their
    differences add up to the least.
    """
    return [_one(want, have, names) for want, have in zip(originals, converted, strict=True)]


def _one(want: Arrays, have: Arrays, names: Sequence[str]) -> Arrays:
    lists = [n for n in names if n in have and have[n].shape == want[n].shape and want[n].ndim > 1]
    if not lists:
        return have
    count, length = want[lists[0]].shape[:2]
    lists = [n for n in lists if want[n].shape[:2] == (count, length) and want[n].ndim <= 3]
    if not 1 < length <= MOST or not lists:
        return have
    found = {**have, **{n: np.array(have[n]) for n in lists}}
    for i in range(count):
        a, b = _columns(want, lists, i), _columns(have, lists, i)
        scale = np.maximum(np.abs(a).max(0), 1e-3)
        cost = np.abs(a[:, None] / scale - b[None] / scale).sum(2)
        rows, order = linear_sum_assignment(np.nan_to_num(cost, nan=1e9, posinf=1e9))
        for n in lists:
            found[n][i, rows] = have[n][i, order]
            last = _at_the_end(a, b[order])
            found[n][i, last] = want[n][i, last]
    return found


def _columns(answer: Arrays, lists: Sequence[str], i: int) -> NDArray[np.float64]:
    length = answer[lists[0]].shape[1]
    parts = [answer[n][i].reshape(length, -1).astype(np.float64) for n in lists]
    return np.concatenate(parts, axis=1)


def _at_the_end(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Rows that differ, though a column that falls from row to row says both are the last ones.

    Where the list ends among equal scores, which of their rows it holds is chance.
    """
    falling = [
        k
        for k in range(a.shape[1])
        if (np.diff(a[:, k]) <= TIE).all() and a[0, k] - a[-1, k] >= 0 and np.ptp(a[:, k]) > TIE
    ]
    if not falling:
        return np.zeros(len(a), bool)
    k = falling[0]
    last = a[-1, k]
    return np.asarray((np.abs(a[:, k] - last) <= TIE) & (np.abs(b[:, k] - last) <= TIE))
