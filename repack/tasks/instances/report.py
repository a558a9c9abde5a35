"""An instance segmentation net's part of the report: a detector's, with masks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handlers.instances import Mask, polygons
from handlers.runtimes.base import Runtime
from repack.model import Arrays, Model
from repack.tasks.detection import compare as detection
from repack.tasks.detection import report
from repack.tasks.detection.report import headline, unchecked
from repack.tasks.instances import compare

if TYPE_CHECKING:
    from repack.gate import Reference

__all__ = ["headline", "limits", "pictures", "unchecked"]


def limits(precision: str) -> dict[str, dict[str, Any]]:
    """The gate's limits by figure, see ``repack.report.facts``."""
    boxes = report.limits(precision)
    masks = {
        "mean_mask_iou": {"least": detection.OVERLAP[precision]},
        "mask_map50_95": boxes["map50_95"],
    }
    return boxes | masks


def pictures(model: Model, runtime: Runtime, reference: Reference) -> dict[str, Any]:
    """Both models' boxes and masks side by side."""
    return report.pictures(model, runtime, reference, partial(_polygons, model))


def _polygons(model: Model, row: NDArray[np.float32], answer: Arrays) -> dict[str, Any]:
    inside = compare.inside(model, row, answer["protos"][0])
    return {"polygons": polygons(Mask(0, 0, inside))}
