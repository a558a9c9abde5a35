"""report.json -> one self-contained page: no script, no network, pictures inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repack.report import drawing, model_parts, verdict
from repack.report.gate_parts import gate
from repack.report.markup import Html, el, figure, join, section

STYLE = Path(__file__).with_name("style.css")

MOST_BYTES = 3_000_000
"""Largest page; pictures are left out, and that is said, before it grows beyond."""

Facts = Mapping[str, Any]


def made(facts: Facts) -> str:
    """The page.

    Args:
        facts: what report.json holds, see ``repack.report.facts.collect``.
    """
    page = _page(facts)
    if len(page.encode()) > MOST_BYTES:
        reason = f"left out: with them the page would be larger than {MOST_BYTES / 1e6:g} MB"
        page = _page({**facts, "pictures": {"none": reason}})
    if len(page.encode()) > MOST_BYTES:
        page = _page({**facts, "pictures": {"none": reason}, "graph": {"none": reason}})
    return page


def _page(facts: Facts) -> str:
    passport = facts["passport"]
    name = f"{passport['name']} {passport['version']}"
    # The style sheet is the kit's own, so it goes in as it is.
    style = Html(f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{name}: report of the archive"),
        style,
    )
    parts = [
        verdict.header(facts),
        verdict.not_checked(facts),
        verdict.choice(facts),
        verdict.precision(facts),
        gate(facts),
        _pictures(facts["pictures"]),
        model_parts.model(facts),
        model_parts.operators(facts["operators"], facts["graph"]),
        _graph(facts["graph"]),
        model_parts.origin(facts),
    ]
    body = el("body", el("main", *parts))
    return "<!DOCTYPE html>\n" + el("html", head, Html("\n"), body, lang="en") + "\n"


def _pictures(given: Facts) -> Html:
    title = "Original beside converted"
    if "none" in given:
        return section(title, el("p", f"No pictures: {given['none']}."))
    count, of = len(given["samples"]), given["of"]
    lead = (
        f"The {count} of {of} samples on which the two differ most."
        if of > count
        else ("All samples, those on which the two differ most first.")
    )
    return section(title, el("p", lead), *(_sample(s, given["kind"]) for s in given["samples"]))


def _sample(sample: Facts, kind: str) -> Html:
    pictures = [
        figure(
            join([el("b", p["label"]), f": {p['note']}"]),
            el("img", src=p["uri"], alt=f"{sample['file']}, {p['label']}: {p['note']}"),
        )
        for p in sample["pictures"]
    ]
    return el(
        "article",
        el("h3", sample["file"]),
        el("p", f"{sample['note']}."),
        el("div", *pictures, class_=f"pictures {kind}"),
    )


def _graph(given: Facts) -> Html:
    title = "The graph"
    if "none" in given:
        return section(title, el("p", f"No drawing: {given['none']}."))
    count = len(given["blocks"])
    lead = (
        f"The ONNX graph's {given['nodes']:,} nodes (constants left out), folded into {count} "
        "blocks: chains, branches that meet again and, where known, the modules that they came "
        "from. A line names the operators and how many there are of each."
    )
    caption = (
        "Read from the top down. Last line of a block: its output's shape, values along each "
        "axis; SiLU stands for Sigmoid and Mul."
    )
    if any(b.get("kind") == "tail" for b in given["blocks"]):
        caption += " The orange block was added by the kit."
    box = el(
        "div",
        drawing.svg(given),
        class_="scroll drawing",
        tabindex="0",
        role="region",
        aria_label="Drawing of the graph",
    )
    return section(title, el("p", lead), figure(caption, box))
