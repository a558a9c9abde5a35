"""The gate's task metric for detectors: the same boxes, and no loss of mean average precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handlers import boxes, heads
from repack.model import Arrays, Model
from repack.samples import Sample
from repack.tasks.base import Comparison
from repack.tasks.detection import suppressions
from repack.tasks.detection.metrics import (
    Match,
    MeanAveragePrecision,
    match,
    mean_average_precision,
)

BORDER = {"f32": 1e-3, "f16": 0.02, "bf16": 0.05, "int8": 0.1, "best": 0.1}
"""A box whose confidence lies this close above the threshold may be missing on the other side."""

PIXELS = {"f32": 0.5, "f16": 2.0, "bf16": 8.0, "int8": 16.0, "best": 16.0}
"""Largest shift of a matched box's corner, in pixels of the model's input."""

MATCHED = {"f32": 1.0, "f16": 0.99, "bf16": 0.97, "int8": 0.95, "best": 0.95}
"""Least share of the boxes that must have their partner on the other side."""

MAP_POINTS = {"f32": 0.1, "f16": 0.5, "bf16": 0.5, "int8": 1.0, "best": 1.0}
"""Most points (hundredths) of mAP50-95 that may be lost on labelled samples."""

OVERLAP = {"f32": 0.99, "f16": 0.97, "bf16": 0.9, "int8": 0.85, "best": 0.85}
"""Least mean overlap (intersection over union) of masks or rectangles that belong together."""

SMALL = 64
"""Area of such a shape that is compared, pixels: of smaller ones a pixel is a percent and more."""

MAP_CONFIDENCE = 0.001
"""Boxes above this enter mean average precision: the usual floor, far below serving's."""


def compare(
    model: Model,
    asked: str,
    originals: Sequence[Arrays],
    converted: Sequence[Arrays],
    samples: Sequence[Sample],
) -> Comparison:
    """The boxes' agreement, and mAP where samples carry labels; as ``Task.compare``."""
    result = Comparison()
    matched = expected = rounded = 0
    shift = confidence = 0.0
    for p in paired(model, asked, originals, converted):
        matched += p.match.matched
        expected += p.match.matched + p.alone
        rounded += p.rounded
        shift, confidence = max(shift, p.match.box_px), max(confidence, p.match.confidence)
    share = matched / expected if expected else 1.0
    result.figures = {
        "boxes_compared": expected,
        "boxes_matched": round(share, 4) if expected else "none to compare",
        "largest_shift_px": round(shift, 2),
        "largest_confidence_difference": round(confidence, 4),
        **({"suppressions_decided_by_rounding": rounded} if rounded else {}),
    }
    if share < MATCHED[asked]:
        result.failures.append(
            f"boxes: {matched} of {expected} matched ({share:.1%}), at least {MATCHED[asked]:.0%}"
        )
    if shift > PIXELS[asked]:
        result.failures.append(f"boxes: a corner moved {shift:.2f} px, at most {PIXELS[asked]} px")
    compare_map(model, asked, originals, converted, samples, result)
    return result


def compare_overlaps(
    asked: str, overlaps: Sequence[float], what: str, measure: str, result: Comparison
) -> None:
    """Adds what the shapes of boxes that belong together have in common, and its failure.

    Args:
        overlaps: intersection over union of each pair.
        what: the shapes, such as "masks"; ``measure`` ends the figures' keys.
    """
    result.figures[f"{what}_compared"] = len(overlaps)
    if not overlaps:
        return
    mean = float(np.mean(overlaps))
    result.figures[f"mean_{measure}"] = round(mean, 4)
    result.figures[f"least_{measure}"] = round(float(min(overlaps)), 4)
    if mean < OVERLAP[asked]:
        result.failures.append(f"{what}: mean overlap {mean:.4f}, at least {OVERLAP[asked]}")


class Paired(NamedTuple):
    """One picture's boxes from both models.

    Attributes:
        first, second: of the original and of the converted model, ``[M, 6 + extras]``.
        match: which belong together.
        alone: how many have no partner, those close above the threshold apart.
        rounded: how many more have none, or one that lies elsewhere, because of suppressions that
            rounding decides (``suppressions.within_rounding``).
        want, have: all outputs of both, for the batch.
        i: the picture's place in the batch.
    """

    first: boxes.Boxes
    second: boxes.Boxes
    match: Match
    alone: int
    rounded: int
    want: Arrays
    have: Arrays
    i: int

    @property
    def rows(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """The boxes that belong together."""
        for one, other in self.match.pairs:
            yield self.first[one], self.second[other]


def paired(
    model: Model, asked: str, originals: Sequence[Arrays], converted: Sequence[Arrays]
) -> Iterator[Paired]:
    """Every picture's boxes from both models."""
    for want, have in zip(originals, converted, strict=True):
        for i in range(len(next(iter(want.values())))):
            first, second = both(model, want, have, i)
            m = match(first[:, :6], second[:, :6], iou=0.5)
            border = model.settings["confidence"] + BORDER[asked]
            lost = np.delete(first, m.pairs[:, 0], axis=0)[:, 4] > border
            extra = np.delete(second, m.pairs[:, 1], axis=0)[:, 4] > border
            alone, rounded = int(lost.sum()) + int(extra.sum()), 0
            if asked == "f32" and (alone or m.box_px > PIXELS[asked]):
                rows = every(model, want)[i], every(model, have)[i]
                if suppressions.within_rounding(*rows, second, model.settings):
                    near = match(first[:, :6], second[:, :6], 0.5, PIXELS[asked])
                    m, alone, rounded = near, 0, alone + m.matched - near.matched
            yield Paired(first, second, m, alone, rounded, want, have, i)


class Precision(NamedTuple):
    """An average precision that the gate compares.

    Attributes:
        figure: its key among the figures, and what those inside begin with.
        title: in messages.
        overlap: as for ``metrics.mean_average_precision``.
        labels: what a sample's label must hold, in words.
        real: from the rows of ``Sample.truth`` what COCO's annotations have of each; None where one
            of them does not hold it.
        found: from boxes ``[M, 6 + extras]`` and the model's answer the same of each.
        sigmas: of the points.
    """

    figure: str
    title: str
    overlap: str
    labels: str
    real: Callable[[NDArray[np.float32]], list[dict[str, Any]] | None]
    found: Callable[[boxes.Boxes, Arrays], list[dict[str, Any]]]
    sigmas: Sequence[float] | None = None


def nothing(rows: NDArray[np.float32], answer: Arrays | None = None) -> list[dict[str, Any]]:
    return [{}] * len(rows)


OF_BOXES = Precision("map", "mAP50-95", "bbox", "boxes", nothing, nothing)


def compare_map(
    model: Model,
    asked: str,
    originals: Sequence[Arrays],
    converted: Sequence[Arrays],
    samples: Sequence[Sample],
    result: Comparison,
    of: Precision = OF_BOXES,
) -> None:
    """Adds both models' average precision on the samples that have labels, and its failure."""
    first = len(originals) - len(samples)
    labelled = [
        (s.truth[:, :5], real, originals[first + i], converted[first + i])
        for i, s in enumerate(samples)
        if s.truth is not None and (real := of.real(s.truth) if len(s.truth) else []) is not None
    ]  # a picture of nothing counts: all that is found in it is wrong
    if not any(real for _, real, _, _ in labelled):
        result.figures[of.figure] = f"not compared: no sample has a label file of {of.labels}"
        return
    truths, beside = [t for t, _, _, _ in labelled], [real for _, real, _, _ in labelled]

    def measured(answers: Sequence[Arrays]) -> MeanAveragePrecision:
        rows = [_for_map(model, answer) for answer in answers]
        more = [of.found(r, answer) for r, answer in zip(rows, answers, strict=True)]
        plain = [r[:, :6] for r in rows]
        return mean_average_precision(plain, truths, of.overlap, (more, beside), of.sigmas)

    original = measured([want for _, _, want, _ in labelled])
    other = measured([have for _, _, _, have in labelled])
    if not original.map50 and not other.map50:
        result.figures[of.figure] = (
            "not compared: it is 0 on both sides, so no label was ever found"
        )
        return
    lost = (original.map50_95 - other.map50_95) * 100
    result.figures[of.figure] = {
        "labelled_samples": len(labelled),
        **{
            name: {
                f"{of.figure}50": round(found.map50, 4),
                f"{of.figure}50_95": round(found.map50_95, 4),
            }
            for name, found in (("original", original), ("converted", other))
        },
    }
    if lost > MAP_POINTS[asked]:
        result.failures.append(
            f"{of.title}: {original.map50_95:.4f} -> {other.map50_95:.4f}, "
            f"{lost:.2f} points lost, at most {MAP_POINTS[asked]}"
        )


def both(
    model: Model, original: Arrays, converted: Arrays, i: int
) -> tuple[boxes.Boxes, boxes.Boxes]:
    """The boxes that a caller would get from the original and from the converted model.

    Args:
        original, converted: the models' outputs for the batch.
        i: the picture's place in it.
    """
    return _suppressed(model, every(model, original)[i]), _found(model, converted, i)


def _for_map(model: Model, answer: Arrays) -> boxes.Boxes:
    ends = heads.required(model.settings)
    return boxes.nms(every(model, answer)[0], ends, MAP_CONFIDENCE, 0.6, 300)


def every(model: Model, answer: Arrays) -> NDArray[Any]:
    """All boxes before suppression, decoded from the raw maps where the artefact ends in these."""
    if "boxes" in answer:
        return answer["boxes"]
    ends = heads.required(model.settings)
    return ends.boxes([answer[name] for name in ends.raw])


def _suppressed(model: Model, prediction: NDArray[Any]) -> boxes.Boxes:
    s = model.settings
    ends = heads.required(s)
    return boxes.nms(prediction, ends, s["confidence"], s["iou"], s["max_detections"])


def _found(model: Model, answer: Arrays, i: int) -> boxes.Boxes:
    """What the handler would answer: the graph's own detections where it ends in them, whose limit
    is one for each class."""
    if "detections" not in answer:
        return _suppressed(model, every(model, answer)[i])
    rows = answer["detections"]
    mine = rows[rows[:, 0] == i, 1:]
    best = np.argsort(-mine[:, 4], kind="stable")[: model.settings["max_detections"]]
    return np.ascontiguousarray(mine[best])
