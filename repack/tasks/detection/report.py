"""A detector's part of the report: its limits, what was not compared, and its boxes as pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handlers import images
from handlers.boxes import Boxes
from handlers.drawing import draw
from handlers.runtimes.base import Runtime
from repack.model import Arrays, Model
from repack.tasks import reporting
from repack.tasks.detection import compare
from repack.tasks.detection.metrics import match

if TYPE_CHECKING:
    from repack.gate import Reference


def limits(precision: str) -> dict[str, dict[str, Any]]:
    """The gate's limits by figure, see ``repack.report.facts``."""
    return {
        "boxes_matched": {"least": compare.MATCHED[precision]},
        "largest_shift_px": {"most": compare.PIXELS[precision]},
        "map50_95": {"points_lost": compare.MAP_POINTS[precision]},
    }


def unchecked(figures: Mapping[str, Any], samples: int) -> list[dict[str, Any]]:
    """What the gate could not compare.

    Args:
        figures: the task's part of the gate's result.
        samples: how many were compared.
    """
    found = []
    if samples and not isinstance(figures.get("map"), dict):
        why = f"mean average precision: {figures.get('map')}. The models' agreement alone was."
        found.append(reporting.note("Accuracy", why, serious=True))
    if not isinstance(figures.get("boxes_matched"), float):
        why = "the original found none on the gate's inputs, so none was compared."
        found.append(reporting.note("Boxes", why, serious=True))
    return found


def headline(figures: Mapping[str, Any]) -> dict[str, str] | None:
    """The figure that says most: ``{"name", "value", "note"}``; None where there is none."""
    scores = figures.get("map")
    if isinstance(scores, dict):
        before, after = (scores[side]["map50_95"] for side in ("original", "converted"))
        note = f"original {before:.4f}, {scores['labelled_samples']} samples"
        return {"name": "accuracy", "value": f"mAP50-95 {after:.4f}", "note": note}
    if isinstance(figures.get("boxes_matched"), float):
        note = f"{figures['boxes_compared']} compared"
        matched = f"{figures['boxes_matched']:.1%} of boxes"
        return {"name": "agreement", "value": matched, "note": note}
    return None


More = Callable[[NDArray[np.float32], Arrays], dict[str, Any]]
"""From a box with its extras and the model's answer to what is drawn beside the box: "polygons",
"points" or "corners" as in the JSON answer, in pixels of the model's input."""


def nothing(row: NDArray[np.float32], answer: Arrays) -> dict[str, Any]:
    return {}


def pictures(
    model: Model, runtime: Runtime, reference: Reference, more: More = nothing
) -> dict[str, Any]:
    """Both models' boxes side by side, see ``repack.tasks.reporting.most_differing``."""

    def compared(given: Arrays, want: Arrays, have: Arrays) -> dict[str, Any]:
        one, two = compare.both(model, want, have, 0)
        m = match(one[:, :6], two[:, :6], iou=0.5)
        alone = len(one) + len(two) - 2 * m.matched
        pixels = given[model.inputs[0].name][0]
        return {
            "differs": alone * 1e6 + m.box_px + m.confidence,
            "note": f"{len(one)} boxes by the original, {len(two)} by the converted model, "
            f"{m.matched} matched; corners differ by at most {m.box_px:.2f} px, confidences by "
            f"{m.confidence:.3f}. Model input of {len(pixels)} x {len(pixels)} px",
            "pictures": [
                {
                    "label": label,
                    "note": f"{len(found)} boxes",
                    "pixels": _drawn(
                        pixels, found, model.source.labels, [more(row, answer) for row in found]
                    ),
                }
                for label, found, answer in (("original", one, want), ("converted", two, have))
            ],
        }

    return reporting.most_differing("boxes", compared, runtime, reference)


def _drawn(
    pixels: NDArray[np.uint8],
    found: Boxes,
    labels: tuple[str, ...],
    more: Sequence[dict[str, Any]],
) -> NDArray[np.uint8]:
    picture, (left, top) = _without_border(pixels)
    small, scale = reporting.small(picture)
    shift = np.array([left, top, left, top])
    rows = [
        {
            "class": labels[int(row[5])],
            "class_id": int(row[5]),
            "confidence": float(row[4]),
            "box": ((row[:4] - shift) * scale).tolist(),
            **_shifted(beside, left, top, scale),
        }
        for row, beside in zip(found, more, strict=True)
    ]
    return draw(small, rows)


def _shifted(more: dict[str, Any], left: int, top: int, scale: float) -> dict[str, Any]:
    """Polygons and points as they lie in the shown picture."""
    outlines = [(np.reshape(p, (-1, 2)) - (left, top)) * scale for p in more.get("polygons", ())]
    points = [((x - left) * scale, (y - top) * scale, c) for x, y, c in more.get("points", ())]
    found: dict[str, Any] = {"polygons": [o.reshape(-1).tolist() for o in outlines]}
    if "corners" in more:
        found["corners"] = (np.asarray(more["corners"]) - (left, top)) * scale
    return {**found, "points": points}


def _without_border(picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The picture without the letterbox around it, and how much went at the left and the top."""
    filled = (picture != images.PADDING).any(2)
    rows, columns = np.flatnonzero(filled.any(1)), np.flatnonzero(filled.any(0))
    if not len(rows):
        return picture, (0, 0)
    top, left = int(rows[0]), int(columns[0])
    return picture[top : rows[-1] + 1, left : columns[-1] + 1], (left, top)
