"""The gate's task metric for classifiers: the same class, and no loss of accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from handlers.classification import probabilities
from repack.model import Arrays, Model
from repack.samples import Sample
from repack.tasks.base import Comparison

TIE = {"f32": 1e-3, "f16": 0.02, "bf16": 0.1, "int8": 0.2, "best": 0.2}
"""Relative difference below which the original's two classes count as equally probable: which of
them comes first is chance."""

AGREE = {"f32": 1.0, "f16": 0.99, "bf16": 0.97, "int8": 0.95, "best": 0.95}
"""Least share of the pictures whose most probable class must be the original's."""

SHIFT = {"f32": 1e-3, "f16": 0.02, "bf16": 0.08, "int8": 0.2, "best": 0.2}
"""Largest difference of a class's probability."""

POINTS = {"f32": 0.1, "f16": 0.5, "bf16": 0.5, "int8": 1.0, "best": 1.0}
"""Most points (hundredths) of accuracy that may be lost on labelled samples; always one picture,
which in a small folder is more."""


def compare(
    model: Model,
    asked: str,
    originals: Sequence[Arrays],
    converted: Sequence[Arrays],
    samples: Sequence[Sample],
) -> Comparison:
    """Top-1 agreement, and accuracy where samples lie in class folders; as ``Task.compare``."""
    result = Comparison()
    name, kind = model.outputs[0].name, model.settings["scores"]
    agreed = rows = 0
    shift = 0.0
    firsts = []
    for want, have in zip(originals, converted, strict=True):
        if name not in have or have[name].shape != want[name].shape:
            return result  # already a failure
        original, other = (probabilities(answer[name], kind) for answer in (want, have))
        first, second = original.argmax(axis=1), other.argmax(axis=1)
        best, chosen = original.max(axis=1), np.take_along_axis(original, second[:, None], 1)[:, 0]
        agreed += int((chosen >= best * (1 - TIE[asked])).sum())
        rows += len(first)
        shift = max(shift, float(np.nan_to_num(np.abs(other - original)).max()))
        firsts.append((int(first[0]), int(second[0])))
    share = agreed / rows
    result.figures = {
        "pictures_compared": rows,
        "same_first_class": round(share, 4),
        "largest_probability_difference": float(f"{shift:.3g}"),
    }
    if share < AGREE[asked]:
        result.failures.append(
            f"classes: {agreed} of {rows} pictures keep their first class ({share:.1%}), "
            f"at least {AGREE[asked]:.0%}"
        )
    if shift > SHIFT[asked]:
        result.failures.append(
            f"classes: a probability moved by {shift:.3f}, at most {SHIFT[asked]}"
        )
    _compare_accuracy(asked, samples, firsts, result)
    return result


def _compare_accuracy(
    asked: str,
    samples: Sequence[Sample],
    firsts: Sequence[tuple[int, int]],
    result: Comparison,
) -> None:
    of_samples = firsts[len(firsts) - len(samples) :]
    labelled = [
        (int(s.truth[0]), pair)
        for s, pair in zip(samples, of_samples, strict=True)
        if s.truth is not None
    ]
    if not labelled:
        result.figures["accuracy"] = "not compared: no sample lies in a folder named for its class"
        return
    right = [sum(pair[i] == truth for truth, pair in labelled) for i in (0, 1)]
    count = len(labelled)
    result.figures["accuracy"] = {
        "labelled_samples": count,
        "original": round(right[0] / count, 4),
        "converted": round(right[1] / count, 4),
    }
    lost = right[0] - right[1]
    if lost > max(1, count * POINTS[asked] / 100):
        result.failures.append(
            f"accuracy: {right[0]} of {count} right -> {right[1]}, more than one picture and "
            f"{POINTS[asked]} points lost"
        )
