"""DBNet (Liao et al., arXiv:1911.08947): where text stands, as a map of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.heads.rows import Ranked
from handlers.rectangles import VALUES, corners

LEAST = 3
"""Shorter side of an island's rectangle, pixels; grown, it has two more."""

MOST = 1000
"""Islands of one picture that are looked at."""


@dataclass(frozen=True, kw_only=True)
class DBNet(Ranked):
    """A probability for every pixel of the input, ``[N, 1, H, W]``. Pixels above ``least`` make
    islands, and each becomes the rectangle around it, as confident as the map's mean within.

    The network learns shrunken text, so every side then moves out by ``unclip`` times the
    rectangle's area over its outline. The extras are the grown one, ``handlers.rectangles``.
    """

    name = "dbnet"
    shares = False
    least: float = 0.3
    unclip: float = 1.5

    @property
    def raw(self) -> tuple[str, ...]:
        return ("text",)

    def boxes(self, maps: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """As many rows for every picture: zeros fill up."""
        found = [self._rows(np.asarray(one[0], np.float32)) for one in maps[0]]
        whole = np.zeros((len(found), max(map(len, found), default=0), self.values), np.float32)
        for rows, mine in zip(whole, found, strict=True):
            rows[: len(mine)] = mine
        return whole

    def _rows(self, likely: NDArray[np.float32]) -> NDArray[np.float64]:
        import cv2  # here: workers of volumes have no use for it

        text = (likely > self.least).astype(np.uint8)
        islands, _ = cv2.findContours(text, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        around = [_upright(*cv2.minAreaRect(island)) for island in islands[:MOST]]
        tight = np.array(around, np.float64).reshape(-1, VALUES)
        tight = tight[tight[:, 2:4].min(1, initial=np.inf) >= LEAST]
        mean = np.array([_mean(likely, outline) for outline in corners(tight)]).reshape(-1, 1)
        width, height = tight[:, 2], tight[:, 3]
        out = self.unclip * width * height / (2 * (width + height))
        grown = tight + out[:, None] * (0, 0, 2, 2, 0)
        places = corners(grown)
        rows = np.concatenate((places.min(1), places.max(1), mean, np.zeros_like(mean), grown), 1)
        return np.asarray(rows[grown[:, 2:4].min(1, initial=np.inf) >= LEAST + 2])


def _upright(
    centre: Sequence[float], size: Sequence[float], degrees: float
) -> tuple[float, float, float, float, float]:
    """OpenCV's rectangle as ours, its width the side that is nearer to the x axis."""
    turned = round(degrees / 90)
    width, height = size[::-1] if turned % 2 else size
    return centre[0], centre[1], width, height, float(np.radians(degrees - 90 * turned))


def _mean(likely: NDArray[np.float32], outline: NDArray[np.float64]) -> float:
    """Of the pixels that an outline ``[4, 2]`` holds or touches, its corners in whole pixels."""
    import cv2

    last = np.array(likely.shape[::-1]) - 1
    low = np.clip(np.floor(outline.min(0)), 0, last).astype(int)
    high = np.clip(np.ceil(outline.max(0)), 0, last).astype(int)
    window = likely[low[1] : high[1] + 1, low[0] : high[0] + 1]
    within = np.zeros(window.shape, np.uint8)
    cv2.fillPoly(within, [np.floor(outline - low + 1e-3).astype(np.int32)], 1)
    return float(window[within > 0].mean())
