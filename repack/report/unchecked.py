"""What the gate compared with which limit, and what it could not tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from handlers.artefact import Artefact
from repack import tolerances as verify
from repack.model import Model
from repack.tasks.classification import compare as verify_classification
from repack.tasks.detection import compare as verify_detection


def limits(precisions: Iterable[str], subject: Model) -> dict[str, dict[str, Any]]:
    """The gate's limits per precision, as it applied them."""
    found: dict[str, dict[str, Any]] = {}
    for precision in sorted(set(precisions)):
        tolerance = verify.TOLERANCES[precision]
        found[precision] = {
            "rtol": tolerance.rtol,
            "atol": tolerance.atol,
            "relative_l2": tolerance.relative_l2,
        }
        if subject.task == "detection":
            found[precision] |= {
                "boxes_matched": verify_detection.MATCHED.get(precision),
                "largest_shift_px": verify_detection.PIXELS.get(precision),
                "map_points_lost": verify_detection.MAP_POINTS.get(precision),
            }
        if subject.task == "classification":
            found[precision] |= {
                "same_first_class": verify_classification.AGREE.get(precision),
                "largest_probability_difference": verify_classification.SHIFT.get(precision),
            }
    return found


def listed(
    subject: Model, gate: dict[str, Any], untried: Iterable[tuple[str, str]], chosen: Artefact
) -> list[dict[str, Any]]:
    """What a person who decides on the archive must know that nobody compared.

    Args:
        gate: the chosen form's result, as ``GateResult.to_dict``.
        untried: forms that could not be built, with the reason.
        chosen: the form.

    Returns:
        ``{"what": str, "why": str, "serious": bool}`` each; serious is what a decision needs.
    """
    samples = gate["inputs"].get("samples", 0)
    if gate["passed"] is None:
        found = [_note("Whether it answers like its original", f"{gate['note']}.", serious=True)]
    else:
        found = [] if samples >= FEW else [_few(samples)]
        found += _by_task(subject, gate["task"], samples)
    if getattr(chosen.options, "relaxed", False):
        found.append(
            _note(
                "What layers in int8 that should be in 16 bits cost",
                "TensorRT had no kernels for what was asked of those next to inputs and outputs. "
                "Labelled samples show it.",
                serious=True,
            )
        )
    if chosen.precision_asked == "int8":
        found.append(_note("Inputs unlike the calibration's", "int8 ranges come from those alone."))
    found += [_note(name, f"it could not be built here: {reason}") for name, reason in untried]
    found.append(
        _note(
            "Other machines",
            "precision and times were read on the packing machine. Where a worker cannot run the "
            "archive as packed, its log, its answers and its metrics say so.",
        )
    )
    found.append(
        _note(
            "Load",
            "times are of single model calls; qpstest --mode 3 measures the served model.",
        )
    )
    return found


FEW = 5
"""Fewer samples than this say little."""


def _few(samples: int) -> dict[str, Any]:
    if samples:
        return _note("Many real inputs", f"the gate saw {samples} of yours only.", serious=True)
    return _note(
        "Real inputs",
        "no --samples were given, so the gate compared on random inputs only. These show that the "
        "arithmetic is the same, not that the answers on your data are.",
        serious=True,
    )


def _by_task(subject: Model, task: dict[str, Any], samples: int) -> list[dict[str, Any]]:
    found = []
    if subject.task == "detection":
        if samples and not isinstance(task.get("map"), dict):
            why = (
                "the samples have no label files, so mean average precision was measured for "
                "neither model; only their agreement was."
            )
            found.append(_note("Accuracy", why, serious=True))
        if not isinstance(task.get("boxes_matched"), float):
            why = "the original found none on the gate's inputs, so none was compared."
            found.append(_note("Boxes", why, serious=True))
    elif subject.task == "tensors":
        why = "raw outputs are compared; the kit knows no measure of this model's task."
        found.append(_note("What the figures mean", why))
    elif subject.task == "segmentation":
        why = "Dice and Hausdorff distance are against the original, not against a person's masks."
        found.append(_note("Accuracy", why))
    elif subject.task == "classification" and not isinstance(task.get("accuracy"), dict):
        why = "the answers are compared with the original's, not with true classes."
        found.append(_note("Accuracy", why))
    return found


def _note(what: str, why: str, serious: bool = False) -> dict[str, Any]:
    return {"what": what, "why": why, "serious": serious}
