"""Detectors whose network decodes its boxes itself: one row a box, one map for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.heads.base import Grid, Head


class Rows(Head):
    """One output ``[N, rows, values]``, decoded already: its cells have no grid."""

    @property
    def raw(self) -> tuple[str, ...]:
        return ("boxes",)

    def grids(self, sides: Sequence[tuple[int, int]]) -> list[Grid]:
        return [np.zeros((1, *side, 0), np.float32) for side in sides]

    def boxes(self, maps: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        (rows,) = maps
        return rows.astype(np.float32)

    def decode(self, raw: Any, grid: Any) -> tuple[Any, Any, Any]:
        return raw[..., 0:2], raw[..., 2:4], raw[..., 4:]

    def threshold(self, confidence: float) -> float:
        return confidence

    def seen(self, given: Any) -> Any:
        return given


@dataclass(frozen=True, kw_only=True)
class Scored(Rows):
    """Rows of centre, width and height in pixels of the input, and a score 0..1 for each class;
    then the extras."""

    name = "scored"

    @property
    def values(self) -> int:
        return 4 + self.classes + self.extras

    def first(self, rows: Any) -> Any:
        """The best class's score."""
        scores = self.confidence(rows[..., 4:])
        return scores.max(-1) if isinstance(rows, np.ndarray) else scores.amax(-1)

    def confidence(self, rest: Any) -> Any:
        return rest[..., : self.classes]


@dataclass(frozen=True, kw_only=True)
class Ranked(Rows):
    """Rows of x1, y1, x2, y2 in pixels of the input, confidence 0..1 and class number, the extras:
    the best ones, chosen by the network."""

    name = "ranked"
    ranked = True

    @property
    def values(self) -> int:
        return 6 + self.extras

    def first(self, rows: Any) -> Any:
        return rows[..., 4]

    def confidence(self, rest: Any) -> Any:
        """The confidence alone, ``[..., 1]``: the class stands beside it."""
        return rest[..., 0:1]


@dataclass(frozen=True, kw_only=True)
class Posed(Scored):
    """Scored rows whose extras are points: x and y in pixels of the input, and a confidence 0..1,
    one after the other."""

    name = "posed"
    shares = False


@dataclass(frozen=True, kw_only=True)
class Oriented(Scored):
    """Scored rows of upright boxes, whose extras are the rectangles within: one as in
    ``handlers.rectangles``, pixels of the input."""

    name = "oriented"
    shares = False
    angled = True


@dataclass(frozen=True, kw_only=True)
class Masked(Scored):
    """Scored rows whose extras weigh the prototypes that stand beside them: output ``protos``
    ``[N, extras, h, w]`` float32. Their sum is a mask's logit, at a share of the input's size."""

    name = "masked"
    shares = False
    beside = ("protos",)
