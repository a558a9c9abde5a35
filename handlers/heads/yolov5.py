"""YOLOv5: anchors and objectness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from handlers.heads.base import Grid, Head


@dataclass(frozen=True, kw_only=True)
class YOLOv5(Head):
    """Anchors and objectness: centre, size, objectness and class scores of every anchor.

    Attributes:
        anchors: per scale each anchor's width and height in pixels of the input; with
            ``strides``, empty where no raw map is ever decoded.
        strides: pixels per cell, per scale.
    """

    name = "yolov5"
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    strides: tuple[int, ...] = ()

    @property
    def raw(self) -> tuple[str, ...]:
        return tuple(f"raw_{stride}" for stride in self.strides)

    @property
    def values(self) -> int:
        return 5 + self.classes

    def sides(self, height: int, width: int) -> list[tuple[int, int]]:
        return [(height // stride, width // stride) for stride in self.strides]

    def grids(self, sides: Sequence[tuple[int, int]]) -> list[Grid]:
        """Columns: x and y of the cell (less one half), stride, the anchor's width and height."""
        found = []
        for (height, width), stride, anchors in zip(sides, self.strides, self.anchors, strict=True):
            grid = np.empty((len(anchors), height, width, 5), np.float32)
            grid[..., 0] = np.arange(width) - 0.5
            grid[..., 1] = np.arange(height)[:, None] - 0.5
            grid[..., 2] = stride
            grid[..., 3:] = np.asarray(anchors, np.float32)[:, None, None]
            found.append(grid)
        return found

    def decode(self, raw: Any, grid: Any) -> tuple[Any, Any, Any]:
        return self.decoded(raw, grid[..., 0:2], grid[..., 2:3], grid[..., 3:5])

    @staticmethod
    def decoded(raw: Any, cell: Any, stride: Any, anchor: Any) -> tuple[Any, Any, Any]:
        """The formula of ``decode``, of columns of the grid that broadcast."""
        y = 1 / (1 + np.exp(-raw)) if isinstance(raw, np.ndarray) else raw.sigmoid()
        centre = (y[..., 0:2] * 2 + cell) * stride
        return centre, (y[..., 2:4] * 2) ** 2 * anchor, y[..., 4:]

    def first(self, rows: Any) -> Any:
        """Objectness, with which every class score is multiplied."""
        return rows[..., 4]

    def threshold(self, confidence: float) -> float:
        return math.log(confidence / (1 - confidence))

    def confidence(self, rest: Any) -> Any:
        return rest[..., 1:] * rest[..., 0:1]
