"""How far a converted model may differ, by the precision that was asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may differ.

    Attributes:
        rtol, atol: every value must lie within ``atol + rtol * |original|``; None where the
            precision cannot promise that for every value.
        relative_l2: bound on ``|converted - original| / |original|`` over the whole output.
    """

    rtol: float | None
    atol: float | None
    relative_l2: float


ATOL = 9e-4
"""The absolute tolerance of f32: below it, differences mean nothing."""

TOLERANCES = {
    "f32": Tolerance(1e-4, ATOL, 1e-4),
    "f16": Tolerance(None, None, 1e-2),
    "bf16": Tolerance(None, None, 3e-2),
    "int8": Tolerance(None, None, 1.5e-1),
    "best": Tolerance(None, None, 1.5e-1),
}
"""f32 is held to the usual bounds of an ONNX export. f16 keeps 11 bits of mantissa (2**-11 = 0.05 %
a value), bf16 8 (2**-8 = 0.4 %), int8 has 256 levels a tensor: for these the whole output's error
is bounded, and the task's metric decides. "best" may hold int8 layers, so it is judged as int8."""

PROVEN = {"f32": 1.0, "f16": 0.9, "bf16": 0.9, "int8": 0.8}
"""Least share of the multiplications that must run in the precision asked; those of layers that
int8 leaves in floats on purpose do not count, as long as the rest is most of them."""


def shortfall(
    asked: str, report: Mapping[str, Any], own: Collection[str] = frozenset()
) -> str | None:
    """Why the precision asked is not the one that runs, or None where it is.

    A model without multiplications that can be counted is f32 by its label alone; for every other
    precision that is no proof.

    Args:
        report: as ``repack.backends.base.Found.report`` gives it.
        own: types that the model's file is in already: asked for f32, these stay as they are.
    """
    if asked == "best":
        return None
    flops, kept = report["flops"], report.get("kept", 0.0)
    fine = {asked, *((*WIDER, *own) if asked == "f32" else ())}
    share = sum(v for k, v in flops.items() if k in fine)
    proven = share >= PROVEN[asked] * (1 - kept) - ROUNDING
    if report["label"] in fine and (proven or (asked == "f32" and not flops)):
        return None
    shown = ", ".join(f"{k} {v:.0%}" for k, v in flops.items()) or "none known"
    purpose = f"; {kept:.0%} left in floats on purpose" if kept else ""
    return f"asked {asked}, found {report['label']} (multiply-adds: {shown}{purpose})"


WIDER = ("f64", "unknown")
"""What is no loss where f32 is asked for: no runtime here goes below it on its own."""

ROUNDING = 1e-3
"""Of shares, which are rounded to four places."""
