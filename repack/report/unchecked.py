"""What nobody compared, whatever the task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from handlers.artefact import Artefact
from repack.tasks.reporting import note

ENOUGH = 5
"""Fewer samples than this say little."""

WHY = (
    "what goes wrong on every second input is among 5 with a probability of 97 %; what goes wrong "
    "on every tenth takes 29 inputs for 95 %"
)
"""1 - (1 - 1/2)^5, and the least n with 1 - (1 - 1/10)^n of 0.95."""


def listed(
    by_task: list[dict[str, Any]],
    gate: dict[str, Any],
    untried: Iterable[tuple[str, str]],
    chosen: Artefact,
    notes: Sequence[str] = (),
    files: int | None = None,
) -> list[dict[str, Any]]:
    """What a person who decides on the archive must know that nobody compared.

    Args:
        by_task: the task's own notes.
        gate: the chosen candidate's result, as ``GateResult.to_dict``.
        untried: candidates that could not be built, with the reason.
        chosen: what the archive runs.
        notes: what was assumed, and what was taken from the file.
        files: how many files the samples came from, where one gives several; None for one each.

    Returns:
        ``{"what": str, "why": str, "serious": bool}`` each; serious is what a decision needs.
    """
    samples = gate["inputs"].get("samples", 0) if files is None else files
    if gate["passed"] is None:
        found = [note("Whether it answers like its original", f"{gate['note']}.", serious=True)]
    else:
        found = [] if samples >= ENOUGH else [_few(samples)]
        found += by_task
    if getattr(chosen.options, "relaxed", False):
        why = (
            "TensorRT had no kernels for what was asked of those next to inputs and outputs. "
            "Labelled samples show it."
        )
        found.append(note("What layers in int8 that should be in 16 bits cost", why, serious=True))
    if chosen.precision_asked == "int8":
        found.append(note("Inputs unlike the calibration's", "int8 ranges come from those alone."))
    found += [note("What was assumed, or read in the file", f"{line}.") for line in notes]
    found += [note(name, f"it could not be built here: {reason}") for name, reason in untried]
    return [
        *found,
        note(
            "Other machines",
            "precision and times were read on the packing machine. Where a worker cannot run the "
            "archive as packed, its log, its answers and its metrics say so.",
        ),
        note(
            "Load", "times are of single model calls; qpstest --mode 3 measures the served model."
        ),
    ]


def _few(samples: int) -> dict[str, Any]:
    """That there were too few samples, and how many are enough."""
    if samples:
        why = f"the gate saw {samples} of yours; {ENOUGH} or more are enough for this page."
        return note("Many real inputs", why, serious=True)
    why = (
        "no --samples were given, so the gate compared on random inputs only. These show that the "
        f"arithmetic is the same, not that the answers on your data are; {ENOUGH} samples are "
        "enough for this page."
    )
    return note("Real inputs", why, serious=True)
