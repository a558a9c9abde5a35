"""What ends a detector: its raw maps, and how boxes are decoded from them, one class a family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

from handlers.artefact import decoded
from handlers.errors import ArchiveError

SETTING = "head"
"""The setting of a passport that holds a detector's head."""

Array = TypeVar("Array")
"""A NumPy array or a torch tensor."""


@dataclass(frozen=True, kw_only=True)
class Head(ABC):
    """One family's end.

    Attributes:
        name: the family's key in ``HEADS``.
        classes: how many.
    """

    name: ClassVar[str]
    classes: int

    @property
    @abstractmethod
    def raw(self) -> tuple[str, ...]:
        """Names of the raw maps, scale by scale."""

    @abstractmethod
    def seen(self, given: Any) -> Any:
        """A raw map as a convolution leaves it, ``[N, C, H, W]``, as handlers and gate see it."""

    def to_setting(self) -> dict[str, Any]:
        """As the passport's settings hold it."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class YOLOv5(Head):
    """Anchors and objectness: three scales of ``[N, anchors, H, W, 5 + classes]``.

    Attributes:
        anchors: per scale each anchor's width and height in pixels of the input.
        strides: pixels per cell, per scale.
    """

    name = "yolov5"
    anchors: tuple[tuple[tuple[float, float], ...], ...]
    strides: tuple[int, ...]

    @property
    def raw(self) -> tuple[str, ...]:
        return tuple(f"raw_{stride}" for stride in self.strides)

    def seen(self, given: Any) -> Any:
        n, channels, height, width = given.shape
        values = 5 + self.classes
        return given.reshape(n, channels // values, values, height, width).permute(0, 1, 3, 4, 2)


HEADS: dict[str, type[Head]] = {"yolov5": YOLOv5}


def of(settings: Mapping[str, Any]) -> Head | None:
    """The head that a passport's settings name; None for a model that is no detector.

    Raises:
        ArchiveError: a family that this kit does not know, or a key that is missing or unknown.
    """
    if SETTING not in settings:
        return None
    told = dict(settings[SETTING])
    kind = HEADS.get(told.pop("name", None))
    if kind is None:
        name = settings[SETTING].get("name")
        raise ArchiveError(f"the archive's head is {name!r}; known: {', '.join(HEADS)}")
    try:
        found: Head = decoded(kind, told, "head")
    except ValueError as e:
        raise ArchiveError(f"the passport lacks or misnames a field ({e})") from None
    return found
