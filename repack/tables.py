"""What a repack shows in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from repack.candidates import Candidate
from repack.gate import GateResult


def candidates(tried: Sequence[Candidate]) -> str:
    """What was tried: precision found, error, mAP where known, time, verdict."""
    width = max(12, *(len(c.name) + 2 for c in tried))
    several = any(c.per_item_ms != c.ms for c in tried)
    each = f"{'ms/item':>9}" if several else ""
    head = f"{'backend':<{width}}{'asked':<6}{'found':<7}{'ms':>8}{each}  {'L2 error':<10}verdict"
    lines = [f"    {head}"]
    for c in tried:
        found, error = "-", "-"
        if c.proof is not None:
            found = c.proof.gate.precision_found["label"]
            errors = [v["relative_l2"] for v in c.proof.gate.outputs.values()]
            error = f"{max(errors):.2g}" if errors else "-"
        time = f"{c.ms:.{2 if c.ms >= 10 else 3}f}" if c.ms else "-"
        each = f"{c.per_item_ms:>9.3f}" if c.ms else f"{'-':>9}"
        shown = f"{time:>8}{each if several else ''}"
        lines.append(
            f"    {c.name:<{width}}{c.precision:<6}{found:<7}{shown}  {error:<10}{c.verdict}"
        )
    return "\n".join(lines)


def gate(result: GateResult) -> str:
    """What differs, for a person."""
    lines = ["  the gate failed:"]
    for name, figures in result.outputs.items():
        shown = ", ".join(f"{k} {v:g}" for k, v in figures.items())
        lines.append(f"    output {name}: {shown}")
    lines += [f"    {key}: {value}" for key, value in result.task.items()]
    lines += [f"    differs: {failure}" for failure in result.failures]
    return "\n".join(lines)
