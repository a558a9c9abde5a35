"""The page's second half: the model, its operators, and where everything came from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from repack.report import words
from repack.report.markup import Html, el, escape, section, table

Facts = Mapping[str, Any]

MOST_LABELS, MOST_FILES = 100, 200
"""Labels and files that are listed."""


def model(facts: Facts) -> Html:
    """Inputs, outputs, labels and settings."""
    passport = facts["passport"]
    rows = [
        [kind, t["name"], t["dtype"], " x ".join(map(str, t["shape"])), t["layout"], _range(t)]
        for kind in ("input", "output")
        for t in passport[f"{kind}s"]
    ]
    head = ("", "name", "type", "shape", "axes", "values")
    labels = passport["labels"]
    shown = ", ".join(map(str, labels[:MOST_LABELS])) or "none"
    if len(labels) > MOST_LABELS:
        shown += f" and {len(labels) - MOST_LABELS:,} more"
    settings = [(words.figure(k), _setting(v)) for k, v in passport["settings"].items()]
    parts = [
        table("What goes in and comes out; shapes in values along each axis", head, rows),
        el("p", el("b", f"{len(labels):,} labels"), f": {shown}") if labels else "",
    ]
    if settings:
        parts.append(table("Settings that the handler reads", ("setting", "value"), settings))
    return section("The model", *parts)


def operators(given: Facts, graph: Facts) -> Html:
    """ATen operators before the export and what became of each in ONNX."""
    title = "Operators before and after"
    if "none" in given:
        parts: list[object] = [el("p", f"No table of the export: {given['none']}.")]
        if "blocks" in graph:
            parts.append(_after_only(graph))
        return section(title, *parts)
    before, after = sum(given["before"].values()), sum(given["after"].values())
    lead = (
        f"{before:,} ATen operators became {after:,} ONNX nodes (constants left out), as "
        f"PyTorch's {given['exporter']} noted on each node."
    )
    added = graph.get("nodes", after) - after
    if added > 0:
        lead += (
            f" The kit then added {added:,} nodes that decode the boxes and suppress duplicates; "
            "they are in the drawing below and not in this table."
        )
    rows = [
        [_side(r["before"]), _side(r["after"]), r["kind"], f"{r['count']:,}"] for r in given["rows"]
    ]
    head = ("before (ATen)", "after (ONNX)", "kind", "times")
    missing = [r for r in given["rows"] if r["kind"] == "no node of its own"]
    note: Html | str = ""
    if missing:
        note = el(
            "p",
            "No node of its own: merged into a neighbour, folded into a constant, or without "
            "effect on the values. The exporter does not note which.",
        )
    return section(
        title, el("p", lead), table("What became of each operator", head, rows, "   n"), note
    )


def _after_only(graph: Facts) -> Html:
    counts: dict[str, int] = {}
    for block in graph["blocks"]:
        for op, n in block["operators"].items():
            counts[op] = counts.get(op, 0) + n
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    caption = "Operators of the ONNX graph; SiLU stands for Sigmoid and Mul"
    return table(caption, ("operator", "times"), rows, " n")


def _setting(value: object) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return "none" if value is None else str(value)


def origin(facts: Facts) -> Html:
    """Command, hashes and versions: what is needed to make it again and to know it again."""
    passport = facts["passport"]
    source = passport["source"]
    machine = facts["machine"]
    hashes = [
        (facts["archive"], "the archive", facts["sha256"]),
        (source.get("file", "none"), "the checkpoint", source.get("sha256", "none")),
    ]
    code = [f for f in sorted(passport["files"].items()) if f[0].endswith(".py")]
    hashes += [
        (name, "in the archive", value)
        for name, value in sorted(passport["files"].items())
        if not name.endswith(".py")
    ]
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"
    return section(
        "Where it came from",
        el("h3", "Command"),
        el("pre", facts["command"], tabindex="0"),
        el("p", f"On: {where}."),
        table("Versions", ("package", "version"), list(passport["versions"].items())),
        _hashes("SHA-256; a worker checks every file of the archive before it loads it", hashes),
        el(
            "details",
            el("summary", f"The handler's {len(code)} files of code"),
            _hashes("SHA-256 of the handler's code", [(n, "in the archive", v) for n, v in code]),
        ),
        el("p", f"Made from {facts['archive'].removesuffix('.mar')}.report.json."),
    )


def _hashes(caption: str, rows: list[tuple[str, str, str]]) -> Html:
    if len(rows) > MOST_FILES:
        caption += f" (the first {MOST_FILES} of {len(rows)})"
    head = ("file", "what", "SHA-256")
    shown = [[name, kind, el("code", value, class_="hash")] for name, kind, value in rows]
    return table(caption, head, shown[:MOST_FILES])


def _side(ops: list[str]) -> Html | str:
    counts: dict[str, int] = {}
    for op in ops:
        counts[op.removeprefix("aten::")] = counts.get(op.removeprefix("aten::"), 0) + 1
    shown = [f"{op} x {n}" if n > 1 else op for op, n in counts.items()]
    # Long names may break after an underscore, and nowhere else.
    broken = re.sub(r"(?<=\w)_", "_<wbr>", escape(", ".join(shown)))
    return el("code", Html(broken)) if shown else "none"


def _range(spec: Facts) -> str:
    return f"{spec['range'][0]:g} to {spec['range'][1]:g}" if spec["range"] else "any"
