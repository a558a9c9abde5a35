"""What the report says, as plain data: NAME.report.json, from which the page is made."""

from __future__ import annotations

import os
import platform
from collections import Counter
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
from repack.report import stages, unchecked
from repack.report.page import FORMAT
from repack.tasks import named
from repack.tolerances import TOLERANCES


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
    model, exported = conversion.model, _exported(conversion)
    task, gate = named(model.task).report(), passport.gate["accelerated"]
    others = [c for c in tried if c is not chosen]
    untried = [(f"{c.name} {c.precision}", c.error) for c in others if c.proof is None]
    used = {c.precision for c in tried} | {a.precision_asked for a in passport.artefacts.values()}
    table = operators.read(exported) if exported else None
    scopes = (table or {}).pop("scopes", {})
    by_task = task.unchecked(gate["task"], gate["inputs"].get("samples", 0))
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
        "limits": {p: {**_limits(p), **task.limits(p)} for p in sorted(used)},
        "headline": task.headline(gate["task"]),
        "not_checked": unchecked.listed(
            *(by_task, gate, untried, passport.artefacts["accelerated"], model.notes),
            len({sample.path for sample in reference.samples}) if reference else None,
        ),
        "passport": asdict(passport),
        "operators": table or {"none": _no_operators(conversion, exported)},
        "graph": _part("graph", lambda: stages.of_model(exported, scopes))
        if exported
        else {"none": _no_export(conversion)},
        "pictures": _part(
            "pictures", lambda: task.pictures(model, chosen.proven().runtime, reference)
        )
        if reference is not None
        else {"none": "nothing was compared"},
    }


def upgraded(found: dict[str, Any]) -> dict[str, Any]:
    """A report of format 1 as this version reads it; its graph has no counts of weights."""
    least = ("boxes_matched", "dice", "same_first_class")
    for limits in found["limits"].values():
        values = {k: limits.pop(k) for k in ("rtol", "atol")}
        for key, value in limits.items():
            limits[key] = {"least" if key in least else "most": value}
        if values["rtol"] is not None:
            limits["max_abs"] = values
        if "map_points_lost" in limits:
            limits["map50_95"] = {"points_lost": limits.pop("map_points_lost")["most"]}
    graph, passport = found["graph"], found["passport"]
    if "blocks" in graph:
        graph["stages"] = [{"weights": None, **block} for block in graph.pop("blocks")]
        counts = sum((Counter(stage["operators"]) for stage in graph["stages"]), Counter())
        graph |= {"operators": dict(counts.most_common()), "weights": None}
    figures = passport["gate"]["accelerated"]["task"]
    found["headline"] = named(passport["task"]).report().headline(figures)
    return found | {"format": FORMAT}


def _limits(precision: str) -> dict[str, dict[str, Any]]:
    """What the gate allows of an output's values, by figure.

    Each is ``{"least": n}``, ``{"most": n}``, ``{"atol": n, "rtol": n}`` or ``{"points_lost": n}``,
    with "or" where something else is allowed too.
    """
    tolerance = TOLERANCES[precision]
    found: dict[str, dict[str, Any]] = {"relative_l2": {"most": tolerance.relative_l2}}
    if tolerance.rtol is not None:
        found["max_abs"] = {"atol": tolerance.atol, "rtol": tolerance.rtol}
    return found


def _exported(conversion: Conversion) -> Path | None:
    """The model as ONNX, where one was made on the way."""
    if conversion.model.source.family == "engine":
        return None
    # Not asked for here where it would mean an export that nobody needed.
    found = conversion.onnx if conversion.model.module is None else vars(conversion).get("onnx")
    return found if isinstance(found, Path) else None


def _no_export(conversion: Conversion) -> str:
    found = vars(conversion).get("onnx")
    return f"the model was not exported: {found}" if found else "no candidate needed an export"


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
