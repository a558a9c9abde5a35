"""The table of ``volumes.py``, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qpstest.server_metrics import STAGES

WANTED = {"f32": (2.0, 0.999), "bf16": (5.0, 0.998), "int8": (4.0, 0.99)}
"""What the accelerated archive should reach by its precision: end to end against TorchScript, and
Dice against the original."""

WANTED_VOLUMES = 3.0
"""Likewise memory beyond the model's own, in float32 volumes."""


def table(result: Mapping[str, Any], sides: Sequence[str]) -> str:
    """All that a reader needs, with what was wanted beside what was found."""
    fast, slow = (next(r for r in result["runs"] if r["side"] == side) for side in sides)
    machine = result["machine"]
    voxels = "x".join(map(str, reversed(result["shape_zyx"])))
    lines = [
        f"# A volume of {voxels} voxels through the shipped 3-D U-Net",
        "",
        f"`{result['command']}`, {result['date']}, {machine['cpu']}, {machine['cores']} cores. "
        "NIfTI in, NIfTI mask out, one request at a time, one worker with all cores. Stages are "
        "means that include the uncounted requests, so their sum is not the end to end time; load "
        f"average of the machine when it was described: {machine['load_average'][0]:g}. Weights: "
        f"SHA-256 {result['weights_sha256'][:16]}.",
        "",
        "| milliseconds per volume | TorchScript, served | accelerated, served | ratio |",
        "|---|---|---|---|",
    ]
    for name in STAGES:
        if name != "gpu_server":  # volumes have none
            lines.append(_row(name, slow["stages_ms"].get(name), fast["stages_ms"].get(name)))
    lines.append(_row("**end to end, p50**", *(r["latency_ms"]["p50"] for r in (slow, fast))))
    lines += ["", f"Accelerated: {fast['runtime']} {fast['precision']}.", *_wanted(result, sides)]
    return "\n".join(lines) + "\n"


def _row(name: str, slow: float | None, fast: float | None) -> str:
    if slow is None or fast is None:
        return f"| {name} | - | - | - |"
    ratio = f"{slow / fast:.2f}" if fast >= 1 else "-"
    return f"| {name} | {slow:,.0f} | {fast:,.0f} | {ratio} |"


def _wanted(result: Mapping[str, Any], sides: Sequence[str]) -> list[str]:
    fast, slow = (next(r for r in result["runs"] if r["side"] == side) for side in sides)
    ratio = slow["latency_ms"]["p50"] / fast["latency_ms"]["p50"]
    wanted_ratio, wanted_dice = WANTED[fast["precision"]]
    dice = result["dice"]["against_the_original"][sides[0]]
    volume, memory = result["volume_float32_mb"], result["memory_mb"][sides[0]]
    beyond = (memory["peak"] - memory["one_window"]) / volume
    truth = result["dice"]["against_the_truth"]
    lines = [
        "",
        "| | found | wanted |",
        "|---|---|---|",
        f"| end to end against served TorchScript | {ratio:.2f} x | {wanted_ratio:g} x |",
    ]
    for name, value in dice.items():
        lines.append(f"| Dice against the original, {name} | {value:.5f} | {wanted_dice} |")
    lines += [
        f"| worker's peak beyond the model with one window, in float32 volumes of {volume:g} MB "
        f"| {beyond:.2f} | {WANTED_VOLUMES:g} |",
        "",
        "Worker memory, MB: "
        + "; ".join(
            f"{side} {m['loaded']:g} loaded, {m['one_window']:g} at its peak on a volume of one "
            f"window, {m['peak']:g} at its peak on the whole volume"
            for side, m in result["memory_mb"].items()
        )
        + ".",
        "",
        "Dice against the truth: "
        + "; ".join(
            f"{who} " + ", ".join(f"{n} {v:.4f}" for n, v in values.items())
            for who, values in truth.items()
        )
        + ".",
    ]
    return lines
