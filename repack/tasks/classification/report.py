"""A classifier's part of the report: its limits, and what was not compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from handlers.runtimes.base import Runtime
from repack.model import Model
from repack.tasks import reporting
from repack.tasks.classification import compare

if TYPE_CHECKING:
    from repack.gate import Reference


def limits(precision: str) -> dict[str, dict[str, Any]]:
    """The gate's limits by figure, see ``repack.report.facts``."""
    return {
        "same_first_class": {"least": compare.AGREE[precision]},
        "largest_probability_difference": {"most": compare.SHIFT[precision]},
        "accuracy": {"points_lost": compare.POINTS[precision], "or": "one picture"},
    }


def unchecked(figures: Mapping[str, Any], samples: int) -> list[dict[str, Any]]:
    """What the gate could not compare.

    Args:
        figures: the task's part of the gate's result.
        samples: how many were compared.
    """
    if isinstance(figures.get("accuracy"), dict):
        return []
    why = "the answers are compared with the original's, not with true classes"
    put = "put --samples into one folder a class to have both models' accuracy compared"
    return [reporting.note("Accuracy", f"{why}; {put}.")]


def headline(figures: Mapping[str, Any]) -> dict[str, str] | None:
    """The figure that says most: ``{"name", "value", "note"}``; None where there is none."""
    scores, same = figures.get("accuracy"), figures.get("same_first_class")
    if isinstance(scores, dict):
        note = f"original {scores['original']:.1%}, {scores['labelled_samples']} samples"
        return {"name": "accuracy", "value": f"{scores['converted']:.1%} right", "note": note}
    if isinstance(same, float):
        note = f"{figures['pictures_compared']} pictures compared"
        return {"name": "agreement", "value": f"{same:.1%} same first class", "note": note}
    return None


def pictures(model: Model, runtime: Runtime, reference: Reference) -> dict[str, Any]:
    """None: a row of scores beside another is read in the table."""
    return {"none": "a classifier's answers are compared as figures"}
