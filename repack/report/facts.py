"""What the report says, as plain data: NAME.report.json, from which the page is made."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from handlers.passport import Passport, sha256
from repack.backends.conversion import Conversion
from repack.candidates import Candidate
from repack.gate import Reference
from repack.onnx import operators
from repack.options import Options
from repack.progress import say
from repack.report import blocks, pictures, unchecked

FORMAT = 1
"""Version of the layout of report.json."""


def collect(
    target: Path,
    passport: Passport,
    options: Options,
    conversion: Conversion,
    reference: Reference | None,
    tried: Sequence[Candidate],
    chosen: Candidate,
) -> dict[str, Any]:
    """Everything known about a finished archive.

    Args:
        target: the archive.
        reference: the gate's inputs and the original's answers.
        tried: all candidates, the portable one among them where it was asked for.
        chosen: one of them; without a proof where there was no original to compare with.

    Returns:
        What ``json.dumps`` takes; the same repack gives the same, its times apart. A part that
        could not be made is ``{"none": reason}``.
    """
    subject, exported = conversion.model, _exported(conversion)
    gate, others = passport.gate["accelerated"], [c for c in tried if c is not chosen]
    untried = [(f"{c.name} {c.precision}", c.error) for c in others if c.proof is None]
    used = [a.precision_asked for a in passport.artefacts.values()]
    table = operators.read(exported) if exported else None
    scopes = (table or {}).pop("scopes", {})
    return {
        "format": FORMAT,
        "archive": target.name,
        "bytes": target.stat().st_size,
        "sha256": sha256(target),
        "command": options.command,
        "asked": {"backend": options.backend, "precision": options.precision},
        "chosen": {
            "backend": chosen.backend,
            "via": chosen.via or None,
            "precision": chosen.precision,
        },
        "candidates": [c.to_dict() for c in tried],
        "timing": "ms: one model call at the smallest batch; per_item_ms: at the largest, per item "
        "(on a CPU both are batch 1, one thread); on the packing machine",
        "machine": _machine(),
        "limits": unchecked.limits([c.precision for c in tried] + used, subject),
        "not_checked": unchecked.listed(subject, gate, untried, passport.artefacts["accelerated"]),
        "passport": asdict(passport),
        "operators": table or {"none": _no_operators(conversion, exported)},
        "graph": _part("graph", lambda: blocks.of_model(exported, scopes))
        if exported
        else {"none": _no_export(conversion)},
        "pictures": _part(
            "pictures",
            lambda: pictures.made(subject, chosen.proven().runtime, reference),
        )
        if chosen.proof and reference
        else {"none": "nothing was compared"},
    }


def _exported(conversion: Conversion) -> Path | None:
    """The model as ONNX, where one was made on the way."""
    if conversion.model.source.family == "engine":
        return None
    # Not asked for here where it would mean an export that nobody needed.
    found = conversion.onnx if conversion.model.module is None else vars(conversion).get("onnx")
    return found if isinstance(found, Path) else None


def _no_export(conversion: Conversion) -> str:
    found = vars(conversion).get("onnx")
    return f"there is no ONNX form: {found}" if found else "no ONNX form was asked for"


def _no_operators(conversion: Conversion, exported: Path | None) -> str:
    if conversion.model.module is None:
        if conversion.model.source.family != "onnx":
            return "the source is no PyTorch module, so PyTorch exported nothing"
        return "the source is an ONNX file already: nothing was exported"
    return "the exporter left no record" if exported else _no_export(conversion)


def _part(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part of the report; the archive is finished, so what fails here is said and not raised."""
    try:
        return make()
    except Exception as e:
        reason = (str(e).strip().splitlines() or ["no reason given"])[0]
        say(f"    note: the report has no {name} ({type(e).__name__}: {reason})")
        return {"none": f"could not be made ({type(e).__name__}: {reason})"}


def _machine() -> dict[str, Any]:
    """Processor, cores and system, without the machine's own names."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        pass
    return {"processor": name, "cores": len(os.sched_getaffinity(0)), "system": platform.system()}
