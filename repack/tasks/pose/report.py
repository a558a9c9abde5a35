"""A pose estimator's part of the report: a detector's, with points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handlers.pose import POINT
from handlers.runtimes.base import Runtime
from repack.model import Arrays, Model
from repack.tasks.detection import compare, report
from repack.tasks.detection.report import headline, unchecked

if TYPE_CHECKING:
    from repack.gate import Reference

__all__ = ["headline", "limits", "pictures", "unchecked"]


def limits(precision: str) -> dict[str, dict[str, Any]]:
    """The gate's limits by figure, see ``repack.report.facts``."""
    points = {
        "largest_point_shift_px": {"most": compare.PIXELS[precision]},
        "oks_map50_95": {"points_lost": compare.MAP_POINTS[precision]},
    }
    return report.limits(precision) | points


def pictures(model: Model, runtime: Runtime, reference: Reference) -> dict[str, Any]:
    """Both models' boxes and points side by side."""
    return report.pictures(model, runtime, reference, _points)


def _points(row: NDArray[np.float32], answer: Arrays) -> dict[str, Any]:
    return {"points": row[6:].reshape(-1, POINT).tolist()}
