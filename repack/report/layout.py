"""A layered layout: every arrow goes down, and few cross.

The classic steps (Sugiyama, Tagawa and Toda, 1981): layers by the longest way from the top, points
of passage where an arrow crosses layers, order within a layer by the mean of the neighbours, then
places across the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean

SWEEPS = 12
"""Passes down and up; more change nothing on the graphs tried."""


@dataclass(frozen=True)
class Layout:
    """Where everything lies.

    Attributes:
        layer: per block, counted from the top.
        across: per block, the middle's distance from the left edge, pixels.
        ways: per arrow (from, to): the places across of its passage, one a layer from start to end.
        width: of the whole, pixels.
    """

    layer: list[int]
    across: list[float]
    ways: dict[tuple[int, int], list[float]]
    width: float


def place(after: Sequence[Sequence[int]], box: float, gap: float, lane: float) -> Layout:
    """Places the blocks of a graph without circles.

    Args:
        after: per block, those that it feeds.
        box: width of a block, pixels.
        gap: least space between blocks of a layer, pixels.
        lane: width kept for a passing arrow, pixels.
    """
    layer = _layers(after)
    chains = _chains(after, layer)
    rows: list[list[int]] = [[] for _ in range(max(layer, default=-1) + 1)]
    level = [*layer]
    up: dict[int, list[int]] = {}
    down: dict[int, list[int]] = {}
    for (start, _), chain in chains.items():
        level += [layer[start] + 1 + i for i in range(len(chain) - 2)]
        for one, two in pairwise(chain):
            down.setdefault(one, []).append(two)
            up.setdefault(two, []).append(one)
    for point, at in enumerate(level):
        rows[at].append(point)
    widths = [box if point < len(layer) else lane for point in range(len(level))]
    _order(rows, up, down)
    across = _across(rows, up, down, widths, gap)
    _straighten([chain[1:-1] for chain in chains.values()], rows, across, widths, gap)
    left = min((a - w / 2 for a, w in zip(across, widths, strict=True)), default=0)
    across = [a - left for a in across]
    width = max((a + w / 2 for a, w in zip(across, widths, strict=True)), default=0)
    ways = {edge: [across[p] for p in chain] for edge, chain in chains.items()}
    return Layout(layer, across[: len(layer)], ways, width)


def _layers(after: Sequence[Sequence[int]]) -> list[int]:
    waiting = [0] * len(after)
    for ends in after:
        for end in ends:
            waiting[end] += 1
    layer = [0] * len(after)
    ready = [i for i, n in enumerate(waiting) if not n]
    while ready:
        one = ready.pop()
        for end in after[one]:
            layer[end] = max(layer[end], layer[one] + 1)
            waiting[end] -= 1
            if not waiting[end]:
                ready.append(end)
    return layer


def _chains(
    after: Sequence[Sequence[int]], layer: Sequence[int]
) -> dict[tuple[int, int], list[int]]:
    """Per arrow, the points from start to end, one a layer; those between are new."""
    chains = {}
    new = len(after)
    for start, ends in enumerate(after):
        for end in ends:
            between = layer[end] - layer[start] - 1
            chains[start, end] = [start, *range(new, new + between), end]
            new += between
    return chains


def _order(rows: list[list[int]], up: dict[int, list[int]], down: dict[int, list[int]]) -> None:
    """Orders each row by the mean place of its neighbours; the order that crosses least stays."""
    best, least = [[*row] for row in rows], _crossings(rows, down)
    for sweep in range(SWEEPS):
        beside = up if sweep % 2 == 0 else down
        place_of = {p: i for row in rows for i, p in enumerate(row)}
        for row in rows if sweep % 2 == 0 else reversed(rows):
            middle = {
                p: mean(place_of[n] for n in beside[p]) if p in beside else place_of[p] for p in row
            }
            row.sort(key=lambda p, m=middle, o=place_of: (m[p], o[p]))  # type: ignore[misc]
            place_of.update({p: i for i, p in enumerate(row)})
        crossed = _crossings(rows, down)
        if crossed < least:
            best, least = [[*row] for row in rows], crossed
    rows[:] = best


def _crossings(rows: list[list[int]], down: dict[int, list[int]]) -> int:
    place_of = {p: i for row in rows for i, p in enumerate(row)}
    count = 0
    for row in rows:
        ends = [sorted(place_of[n] for n in down.get(p, ())) for p in row]
        flat = [e for part in ends for e in part]
        starts = [i for i, part in enumerate(ends) for _ in part]
        count += sum(
            1
            for i in range(len(flat))
            for j in range(i)
            if starts[j] < starts[i] and flat[j] > flat[i]
        )
    return count


def _across(
    rows: list[list[int]],
    up: dict[int, list[int]],
    down: dict[int, list[int]],
    widths: Sequence[float],
    gap: float,
) -> list[float]:
    """Pulls every point towards its neighbours without letting two of a row touch."""
    across = [0.0] * len(widths)
    for row in rows:
        _spread(row, across, widths, gap)
    for sweep in range(2 * SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            beside = (up, down)[sweep % 2]
            for p in row:
                near = beside.get(p) or [p]
                across[p] = mean(across[n] for n in near)
            _spread(row, across, widths, gap)
    return across


def _spread(row: list[int], across: list[float], widths: Sequence[float], gap: float) -> None:
    """Moves the points of a row apart, in order, around where they want to be."""
    wanted = [across[p] for p in row]
    for i in range(1, len(row)):
        room = (widths[row[i - 1]] + widths[row[i]]) / 2 + gap
        across[row[i]] = max(across[row[i]], across[row[i - 1]] + room)
    shift = mean(w - across[p] for w, p in zip(wanted, row, strict=True)) if row else 0
    for p in row:
        across[p] += shift


def _straighten(
    lanes: list[list[int]],
    rows: list[list[int]],
    across: list[float],
    widths: Sequence[float],
    gap: float,
) -> None:
    """Moves passing arrows into one line where nothing is in their way."""
    beside: dict[int, tuple[int | None, int | None]] = {}
    for row in rows:
        for i, p in enumerate(row):
            beside[p] = row[i - 1] if i else None, row[i + 1] if i + 1 < len(row) else None
    for lane in lanes:
        if len(lane) < 2:
            continue
        low, high = float("-inf"), float("inf")
        for p in lane:
            left, right = beside[p]
            if left is not None:
                low = max(low, across[left] + (widths[left] + widths[p]) / 2 + gap)
            if right is not None:
                high = min(high, across[right] - (widths[right] + widths[p]) / 2 - gap)
        if low <= high:
            line = min(max(mean(across[p] for p in lane), low), high)
            for p in lane:
                across[p] = line
