"""What a layout is: how a network's answers become rows of boxes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray
from torch import Tensor, nn

from handlers import heads
from repack.options import Three

STRIDES: Sequence[tuple[int, ...]] = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
"""Pixels a cell, scale by scale, of the detectors of this field."""


def cells(sides: tuple[int, int], strides: Sequence[int]) -> int:
    """Cells of all scales for an input of so many pixels."""
    return sum(-(-sides[0] // s) * -(-sides[1] // s) for s in strides)


@dataclass(frozen=True)
class Probe:
    """One answer of a network.

    Attributes:
        outputs: by name, of one picture of random pixels.
        sides: height and width of that picture.
        classes: how many the file or the user names; 0 where nobody does.
        points: as ``repack.sources.told.Told``.
    """

    outputs: Mapping[str, NDArray[Any]]
    sides: tuple[int, int]
    classes: int
    points: tuple[int, int] | None = None

    @property
    def rows(self) -> NDArray[Any] | None:
        """The only output, where that is ``[N, rows, values]``, rows and values in any order."""
        values = list(self.outputs.values())
        return values[0] if len(values) == 1 and values[0].ndim == 3 else None

    @property
    def shown(self) -> str:
        return ", ".join(f"{n} {list(v.shape)}" for n, v in self.outputs.items())


class Rows(nn.Module, ABC):
    """A network's answers, in their order -> the rows of its head, ``[N, M, values]``, and what
    its head reads beside them.

    Attributes:
        head: what the rows are.
    """

    def __init__(self, head: heads.Head):
        super().__init__()
        self.head = head

    @abstractmethod
    def forward(self, *outputs: Tensor) -> Tensor | tuple[Tensor, ...]: ...


class Layout(ABC):
    """The way in which one project's detectors, or several projects', answer boxes.

    Attributes:
        name: the value of ``--layout``.
        shown: the outputs' shapes.
        task: a key of ``repack.tasks.TASKS``.
        mode: how pictures are fitted in, one of ``handlers.images.MODES``.
        mean, std, bgr: as ``repack.onnx.pixels.Normal``.
        names: of the classes, where they are always the same.
        confidence: least confidence of an answered box.
        iou: overlap above which boxes of a class are merged.
        stated: whether all that answer so take pictures prepared so; where not, the user is told
            what was assumed.
        batches: whether it answers several pictures at once.
    """

    name: ClassVar[str]
    shown: ClassVar[str]
    task: ClassVar[str] = "detection"
    mode: ClassVar[str] = "letterbox"
    mean: ClassVar[Three] = (0, 0, 0)
    std: ClassVar[Three] = (1, 1, 1)
    bgr: ClassVar[bool] = False
    names: ClassVar[tuple[str, ...]] = ()
    confidence: ClassVar[float] = 0.25
    iou: ClassVar[float] = 0.7
    stated: ClassVar[bool] = True
    batches: ClassVar[bool] = True

    @abstractmethod
    def fit(self, probe: Probe) -> Rows | None:
        """What makes rows of such answers; None where these are none."""
