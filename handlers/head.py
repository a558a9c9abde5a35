"""What ends a detector: its raw maps, and how boxes are decoded from them.

A new family is a class here, in ``HEADS``, and its tail of an ONNX graph in
``repack.onnx.suppression``; no other module of the handlers knows a family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from handlers.artefact import decoded
from handlers.errors import ArchiveError

SETTING = "head"
"""The setting of a passport that holds a detector's head."""

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
        classes: how many.
    """

    name: ClassVar[str]
    shares: ClassVar[bool] = True
    classes: int

    @property
    @abstractmethod
    def raw(self) -> tuple[str, ...]:
        """Names of the raw maps, scale by scale."""

    @property
    @abstractmethod
    def values(self) -> int:
        """Values of a box, in the raw maps and decoded."""

    @abstractmethod
    def sides(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of each map, for an input of so many pixels."""

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

    def confidence(self, rest: Any) -> Any:
        return rest[..., 1:] * rest[..., 0:1]


HEADS: dict[str, type[Head]] = {YOLOv5.name: YOLOv5}


def of(settings: Mapping[str, Any]) -> Head | None:
    """The head that a passport's settings name; None for a model that is no detector.

    Raises:
        ArchiveError: a family that this kit does not know, or a key that is missing or unknown.
    """
    if SETTING not in settings:
        return None
    told = settings[SETTING]
    kind = HEADS.get(str(told.get("name"))) if isinstance(told, Mapping) else None
    if kind is None:
        raise ArchiveError(f"the archive's head is {told!r:.60}; known: {', '.join(HEADS)}")
    try:
        found: Head = decoded(kind, {k: v for k, v in told.items() if k != "name"}, "head")
    except ValueError as e:
        raise ArchiveError(f"the passport lacks or misnames a field ({e})") from None
    return found


def required(settings: Mapping[str, Any]) -> Head:
    """As ``of``, for a detector.

    Raises:
        ArchiveError: there is none, too.
    """
    found = of(settings)
    if found is None:
        raise ArchiveError("the passport of a detector names no head: repack it")
    return found


def before(options: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """The setting for a passport of format 1, which knew one family.

    Args:
        options: of its artefact on a GPU, which held anchors and strides; else without them.
    """
    kept = {k: options[k] for k in ("anchors", "strides") if k in options}
    return {"name": YOLOv5.name, "classes": classes, **kept}
