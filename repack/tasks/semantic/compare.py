"""The gate's task metric for semantic segmentation: the same class at each pixel, and no loss of
mean intersection over union.

A class's intersection over union is over all pictures together: its pixels in both label maps
through its pixels in either; the mean is over the classes that either has (Everingham et al., The
PASCAL Visual Object Classes Challenge, IJCV 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import Unprocessable
from handlers.letterbox import Letterbox, placed
from handlers.semantic import BAND, LabelMap, label_map
from repack.model import Arrays, Model
from repack.samples import Sample
from repack.tasks.base import Comparison
from repack.tasks.detection import compare as detection

AGREE = {"f32": 0.999, "f16": 0.995, "bf16": 0.98, "int8": 0.95, "best": 0.95}
"""Least share of the pixels that must keep their class."""

IOU = detection.OVERLAP
"""Least mean intersection over union with the original's label maps, as of masks and rectangles."""

POINTS = detection.MAP_POINTS
"""Most points (hundredths) of mean intersection over union that may be lost on labelled samples, as
of mean average precision."""

FEW = 64
"""A class of fewer pixels on both sides is not judged against the original: one pixel decides."""


def compare(
    model: Model,
    asked: str,
    originals: Sequence[Arrays],
    converted: Sequence[Arrays],
    samples: Sequence[Sample],
) -> Comparison:
    """Agreement of the label maps, and their mean intersection over union with the labels'; as
    ``Task.compare``.

    Both models' label maps are compared at the network's own size, on the samples alone where there
    are some: of noise a network is sure of nothing. With labels they are compared at the picture's
    own size, as they are answered.
    """
    result, known = Comparison(), len(model.source.labels)
    name = model.outputs[0].name
    if any(
        name not in have or have[name].shape != want[name].shape
        for want, have in zip(originals, converted, strict=True)
    ):
        return result  # already a failure
    first = len(originals) - len(samples) if samples else 0
    same: NDArray[np.int64] = np.zeros((known, known), np.int64)
    try:
        for want, have in zip(originals[first:], converted[first:], strict=True):
            for one, other in zip(want[name], have[name], strict=True):
                same += confusion(own_size(model, one), own_size(model, other), known)
    except Unprocessable as e:
        result.failures.append(f"classes: {e}")
        return result
    agreed, sizes = float(np.trace(same) / same.sum()), same.sum(0) + same.sum(1)
    judged = sizes >= min(FEW, sizes.max())
    mean = float(ious(same)[judged].mean())
    result.figures = {
        "pixels_compared": int(same.sum()),
        "pixel_agreement": round(agreed, 6),
        "mean_iou": round(mean, 4),
    }
    if agreed < AGREE[asked]:
        result.failures.append(
            f"classes: {agreed:.3%} of the pixels keep theirs, at least {AGREE[asked]:.1%}"
        )
    if mean < IOU[asked]:
        result.failures.append(
            f"classes: mean intersection over union with the original's {mean:.4f}, at least "
            f"{IOU[asked]}"
        )
    _compare_labels(model, asked, originals[first:], converted[first:], samples, result)
    return result


def _compare_labels(
    model: Model,
    asked: str,
    originals: Sequence[Arrays],
    converted: Sequence[Arrays],
    samples: Sequence[Sample],
    result: Comparison,
) -> None:
    """Adds both models' mean intersection over union with the labels, and its failure."""
    known, name = len(model.source.labels), model.outputs[0].name
    labelled = [i for i, sample in enumerate(samples) if sample.truth is not None]
    if not any((np.asarray(samples[i].truth) < known).any() for i in labelled):
        result.figures["miou"] = "not compared: no sample has a label file of classes"
        return
    means = []
    for answers in (originals, converted):
        table: NDArray[np.int64] = np.zeros((known, known), np.int64)
        for i in labelled:
            truth: NDArray[Any] = np.asarray(samples[i].truth)
            size = truth.shape[0], truth.shape[1]
            table += confusion(truth, at_pictures_size(model, answers[i][name][0], size), known)
        means.append(float(ious(table)[table.sum(0) + table.sum(1) > 0].mean()))
    before, after = means
    result.figures["miou"] = {
        "labelled_samples": len(labelled),
        "original": round(before, 4),
        "converted": round(after, 4),
    }
    lost = (before - after) * 100
    if lost > POINTS[asked]:
        result.failures.append(
            f"mIoU: {before:.4f} -> {after:.4f}, {lost:.2f} points lost, at most {POINTS[asked]}"
        )


def own_size(model: Model, values: NDArray[Any]) -> LabelMap:
    """The label map of one answer, at the network's own size."""
    h, w = values.shape[-2:]
    return label_map(
        values, len(model.source.labels), model.settings["threshold"], Letterbox(1, 1, 0, 0),
        (h, w), (h, w),
    )  # fmt: skip


def at_pictures_size(model: Model, values: NDArray[Any], size: tuple[int, int]) -> LabelMap:
    """The same on a picture's own pixels.

    Args:
        size: the picture's height and width.
    """
    fit = int(model.inputs[0].shape[1]), int(model.inputs[0].shape[2])
    place = placed(size, fit, model.settings["resize_mode"])[0]
    known, threshold = len(model.source.labels), model.settings["threshold"]
    return label_map(values, known, threshold, place, fit, size)


def confusion(real: NDArray[Any], found: LabelMap, known: int) -> NDArray[np.int64]:
    """How many pixels of each class (row) were found as which (column), ``[known, known]``; pixels
    whose class is none of these do not count."""
    table: NDArray[np.int64] = np.zeros(known * known, np.int64)
    rows = max(1, BAND // found.shape[1])
    for i in range(0, len(found), rows):
        one, other = (part[i : i + rows].astype(np.int64) for part in (real, found))
        counted = one < known
        table += np.bincount(one[counted] * known + other[counted], minlength=len(table))
    return table.reshape(known, known)


def ious(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class; 0 for one that neither side has."""
    either = table.sum(0) + table.sum(1) - table.diagonal()
    return np.asarray(table.diagonal() / np.maximum(either, 1), np.float64)
