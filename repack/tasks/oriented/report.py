"""The part of the report for boxes at an angle: a detector's, with rectangles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handlers.rectangles import corners
from handlers.runtimes.base import Runtime
from repack.model import Arrays, Model
from repack.tasks.detection import compare, report
from repack.tasks.detection.report import headline, unchecked

if TYPE_CHECKING:
    from repack.gate import Reference

__all__ = ["headline", "limits", "pictures", "unchecked"]


def limits(precision: str) -> dict[str, dict[str, Any]]:
    """The gate's limits by figure, see ``repack.report.facts``."""
    return report.limits(precision) | {"mean_rotated_iou": {"least": compare.OVERLAP[precision]}}


def pictures(model: Model, runtime: Runtime, reference: Reference) -> dict[str, Any]:
    """Both models' rectangles side by side."""
    return report.pictures(model, runtime, reference, _corners)


def _corners(row: NDArray[np.float32], answer: Arrays) -> dict[str, Any]:
    return {"corners": corners(row[None, 6:])[0]}
