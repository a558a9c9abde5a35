"""The gate's figures beside their limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from repack.report import words
from repack.report.markup import Html, el, section, table
from repack.report.verdict import label_rows

Facts = Mapping[str, Any]

Row = tuple[str, str, str]

AT_LEAST = {"boxes_matched", "dice", "same_first_class"}
"""Figures whose limit is a lowest value; all others' is a highest."""

MOST_LABELS = 200
"""Rows of the table of labels."""


def gate(facts: Facts) -> Html:
    """Both forms of the archive against the original."""
    parts: list[Html] = []
    for name, result in facts["passport"]["gate"].items():
        limits = facts["limits"].get(result["precision_asked"], {})
        limits = {**limits, **(result["task"].get("limits") or {})}
        artefact = facts["passport"]["artefacts"][name]
        form = words.form(artefact["runtime"], result["precision_asked"])
        if result["passed"] is None:
            parts += [el("h3", f"{name}: {form}, not compared"), el("p", f"{result['note']}.")]
            continue
        verdict = "passed" if result["passed"] else "failed"
        title = f"{name}: {form}, {verdict} on {words.count(result['inputs'])}"
        parts += [el("h3", title), _outputs(result["outputs"], limits)]
        if rows := _task(result["task"], limits):
            parts.append(
                table("Agreement of the answers", ("figure", "measured", "limit"), rows, " nn")
            )
        if labels := label_rows(result["task"]):
            parts.append(_labels(labels, limits))
    lead = (
        "Original and converted model got the same inputs, none of which the conversion had seen. "
        "The relative L2 error is the length of the difference over the length of the original's "
        "output, over all values at once, the worst input counted."
    )
    return section("The gate", el("p", lead), *parts)


def _outputs(outputs: Facts, limits: Facts) -> Html:
    """The values of each output, a row each."""
    keys = list(dict.fromkeys(k for figures in outputs.values() for k in figures))
    rows = [
        [name, *(words.number(outputs[name].get(k)) for k in keys)]
        for name in sorted(outputs, key=_natural)
    ]
    known = _limits(keys, limits)
    caption = f"Values of the outputs; limits: {', '.join(known) or 'none'}"
    return table(caption, ["output", *map(words.figure, keys)], rows, " " + "n" * len(keys))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts raw_8 before raw_16."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]


def _task(task: Facts, limits: Facts) -> list[Row]:
    rows: list[Row] = []
    for key, value in task.items():
        if key == "map":
            rows += _map(value, limits)
        elif key not in ("labels", "limits"):
            rows += _plain(key, value, limits)
    return rows


def _limit(key: str, limits: Facts) -> str:
    if key == "max_abs" and limits.get("rtol") is not None:
        return f"{words.number(limits['atol'])} + {words.number(limits['rtol'])} x |original|"
    if limits.get(key) is None:
        return "none"
    bound = "at least" if key in AT_LEAST else "at most"
    return f"{bound} {words.value(key, limits[key])}"


def _limits(keys: list[str], limits: Facts) -> list[str]:
    """Name, limit and unit of the figures that have one."""
    named = [(words.name_and_unit(k), _limit(k, limits)) for k in keys]
    return [f"{name} {limit} {unit}".strip() for (name, unit), limit in named if limit != "none"]


def _map(scores: Any, limits: Facts) -> list[Row]:
    if not isinstance(scores, dict):
        return [("mAP", words.number(scores), "none")]
    before, after = scores["original"], scores["converted"]
    lost = (before["map50_95"] - after["map50_95"]) * 100
    return [
        (f"{name}, original → converted", f"{before[key]:.4f} → {after[key]:.4f}", "none")
        for key, name in (("map50", "mAP50"), ("map50_95", "mAP50-95"))
    ] + [
        (
            f"mAP50-95 lost on {scores['labelled_samples']} labelled samples, points (hundredths)",
            f"{lost:.2f}",
            _limit("map_points_lost", limits),
        )
    ]


def _plain(key: str, value: Any, limits: Facts) -> list[Row]:
    """A figure of any task; figures within figures by both names."""
    if isinstance(value, dict):
        return [
            (f"{words.figure(key)}: {words.figure(inner)}", words.number(v), _limit(inner, limits))
            for inner, v in value.items()
        ]
    parts = value if isinstance(value, list) else [value]
    shown = ", ".join(words.value(key, v) for v in parts)
    return [(words.figure(key), shown, _limit(key, limits))]


def _labels(labels: list[tuple[str, dict[str, Any]]], limits: Facts) -> Html:
    keys = list(dict.fromkeys(k for _, figures in labels for k in figures))
    rows = [
        [name, *(words.value(k, figures.get(k)) for k in keys)]
        for name, figures in labels[:MOST_LABELS]
    ]
    known = _limits(keys, limits)
    caption = "Converted mask against original mask, per label"
    caption += f" (limits: {', '.join(known)})" if known else ""
    if len(labels) > MOST_LABELS:
        caption += f"; the first {MOST_LABELS} of {len(labels)}"
    return table(caption, ["label", *map(words.figure, keys)], rows, " " + "n" * len(keys))
