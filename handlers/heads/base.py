"""What ends a detector: its raw maps, and how boxes are decoded from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float32]
"""``[anchors, H, W, k]``: where each cell of a map lies, as the family's ``decode`` reads it."""


@dataclass(frozen=True, kw_only=True)
class Head(ABC):
    """One family's end.

    Arrays are NumPy's or torch's: the formulas use only what both have.

    Attributes:
        name: the family's key in ``HEADS``.
        shares: whether one process may run it on a GPU for several workers
            (``handlers.gpu.server``), which hands over a box as its corners, confidence and class.
        beside: outputs that the handler reads beside the boxes.
        ranked: the network chooses its best boxes itself: ``values`` are corners, confidence and
            class, and nothing is suppressed.
        angled: the extras are rectangles, by which boxes are suppressed.
        classes: how many.
        extras: values of a box beyond those of its classes, last; they are handed on as they are.
    """

    name: ClassVar[str]
    shares: ClassVar[bool] = True
    beside: ClassVar[tuple[str, ...]] = ()
    ranked: ClassVar[bool] = False
    angled: ClassVar[bool] = False
    classes: int
    extras: int = 0

    @property
    @abstractmethod
    def raw(self) -> tuple[str, ...]:
        """Names of the raw maps, scale by scale."""

    @property
    @abstractmethod
    def values(self) -> int:
        """Values of a box, in the raw maps and decoded."""

    def sides(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of each raw map, for an input of so many pixels; none where the head
        reads what the model gives anyway."""
        return []

    @abstractmethod
    def grids(self, sides: Sequence[tuple[int, int]]) -> list[Grid]:
        """Where the cells of maps of these sides lie."""

    @abstractmethod
    def decode(self, raw: Any, grid: Any) -> tuple[Any, Any, Any]:
        """Raw values ``[..., values]`` and their cells' ``[..., k]`` of the grid to boxes: centre,
        width and height in pixels of the input, ``[..., 2]`` each, and the rest, in 0..1."""

    @abstractmethod
    def first(self, rows: Any) -> Any:
        """What is compared with the threshold before all else, ``[...]``: no box of ``rows``,
        ``[..., values]`` raw (before the sigmoid) or decoded, is more confident than this."""

    @abstractmethod
    def threshold(self, confidence: float) -> float:
        """What ``first`` of raw values is compared with, for boxes above this confidence."""

    @abstractmethod
    def confidence(self, rest: Any) -> Any:
        """``[..., classes]`` in 0..1, from the rest that ``decode`` gives."""

    def seen(self, given: Any) -> Any:
        """A torch map as a convolution leaves it, ``[N, anchors * values, H, W]``, as
        ``[N, anchors, H, W, values]``."""
        n, channels, height, width = given.shape
        apart = given.view(n, channels // self.values, self.values, height, width)
        return apart.permute(0, 1, 3, 4, 2)

    def boxes(self, maps: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """All boxes of raw maps (``[N, anchors, H, W, values]`` each), decoded and scale by scale:
        ``[N, boxes, values]`` float32."""
        scales = []
        for raw, grid in zip(maps, self.grids([m.shape[2:4] for m in maps]), strict=True):
            found = np.concatenate(self.decode(raw.astype(np.float32), grid), -1)
            scales.append(found.reshape(len(found), -1, self.values))
        return np.concatenate(scales, axis=1)

    def to_setting(self) -> dict[str, Any]:
        """As the passport's settings hold it."""
        return {"name": self.name, **asdict(self)}
