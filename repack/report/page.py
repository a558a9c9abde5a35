"""report.json -> one self-contained page: no script, no network, pictures inside.

What stands on it is in ``templates``; here is what they cannot say: what is shown of a foreign
string, and what is worked out from the data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from repack.backends import title
from repack.report import unchecked, words

FORMAT = 2
"""Version of the layout of report.json."""

TEMPLATES = Path(__file__).with_name("templates")

MOST_BYTES = 3_000_000
"""Largest page; pictures are left out, and that is said, before it grows beyond."""

LONGEST = 400
"""Letters of one string that are shown."""

HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control, invisible and direction-changing characters: shown by their number instead."""

PICTURE = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+")
COLOUR = re.compile(r"#[0-9a-f]{6}")

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
    return page


def _page(facts: Facts) -> str:
    # Every value that a template writes passes through _visible, and is then escaped.
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        *(title, words.candidate, words.figure, words.value, words.number, words.limit),
        *(words.size, words.listing, words.inputs, words.operators, words.counted, words.worst),
        *(_setting, _picture, _colour),
    ):
        templates.filters[function.__name__.strip("_")] = function
    return templates.get_template("page.html.j2").render(_worked_out(facts))


def _visible(value: object) -> object:
    """A string without characters that hide, and cut where it is too long."""
    if isinstance(value, Markup):
        return value
    text = str(value)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}... ({len(text) - LONGEST:,} more letters)"
    return HIDDEN.sub(lambda m: f"\\u{ord(m[0]):04x}", text)


def _setting(value: object) -> str:
    """A setting of the handler, JSON where it has parts."""
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return "none" if value is None else str(value)


def _picture(uri: str) -> Markup:
    """A picture's address as it is, because it is long; empty where it is no picture's."""
    return Markup(uri if PICTURE.fullmatch(uri) else "")  # noqa: S704


def _colour(value: str) -> str:
    return value if COLOUR.fullmatch(value) else "#000000"


def _worked_out(facts: Facts) -> dict[str, Any]:
    """The facts and what follows from them."""
    passport = facts["passport"]
    gate = passport["gate"]["accelerated"]
    (chosen,) = (c for c in facts["candidates"] if _is(c, facts["chosen"]))
    files = [(name, "in the archive", sha) for name, sha in sorted(passport["files"].items())]
    passed = [c for c in facts["candidates"] if c["verdict"] == "passed"]
    return {
        **facts,
        "chosen": chosen,
        "gate": gate,
        "open": [n["what"].lower() for n in facts["not_checked"] if n["serious"]],
        "not_checked": sorted(facts["not_checked"], key=lambda n: not n["serious"]),
        "passed": passed,
        "enough": f"{unchecked.ENOUGH} samples are enough for this page: {unchecked.WHY}.",
        "timed": sorted((c for c in passed if c["per_item_ms"]), key=lambda c: c["per_item_ms"]),
        "portable": _portable(facts, chosen),
        "exact": _more_exact(facts, chosen),
        "results": [_result(facts, name) for name in passport["gate"]],
        "artefact_files": [f for f in files if not f[0].endswith(".py")],
        "code_files": [f for f in files if f[0].endswith(".py")],
    }


def _is(candidate: Facts, chosen: Facts) -> bool:
    return all(candidate.get(k) == chosen.get(k) for k in ("backend", "via", "precision"))


def _portable(facts: Facts, chosen: Facts) -> Facts | None:
    """The candidate that became the archive's portable artefact, if it is another and was timed."""
    runtime = facts["passport"]["artefacts"].get("portable", {}).get("runtime")
    alike = (c for c in facts["candidates"] if (c["backend"], c["precision"]) == (runtime, "f32"))
    return next((c for c in alike if c["ms"] and chosen["ms"] and not _is(c, chosen)), None)


def _more_exact(facts: Facts, chosen: Facts) -> dict[str, Any] | None:
    """Candidates of precisions that the gate holds to less error than the chosen one's.

    Returns:
        The fastest that passed, and those that did not; None where there is no such precision.
    """
    bounds = {p: limits["relative_l2"]["most"] for p, limits in facts["limits"].items()}
    allowed = bounds[chosen["precision"]]
    if not chosen["per_item_ms"] or allowed <= min(bounds.values()):
        return None
    exact = [c for c in facts["candidates"] if bounds[c["precision"]] < allowed]
    timed = [c for c in exact if c["verdict"] == "passed" and c["per_item_ms"]]
    fastest = min(timed, key=lambda c: float(c["per_item_ms"]), default=None)
    return {"fastest": fastest, "failed": [c for c in exact if c["verdict"] != "passed"]}


def _result(facts: Facts, name: str) -> dict[str, Any]:
    """One artefact's figures: those of the answers one by one, and tables of those by name."""
    result = facts["passport"]["gate"][name]
    limits = dict(facts["limits"].get(result["precision_asked"], {}))
    task = dict(result["task"])
    for key, most in task.pop("limits", {}).items():
        limits.setdefault(key, {"most": most})
    tables, rows = [_by_name("output", result["outputs"], limits)], []
    for key, given in task.items():
        if not isinstance(given, dict):
            rows.append((words.figure(key), words.value(given, key), _limit(limits, key)))
        elif given.keys() >= {"original", "converted"}:
            rows += _both(key, given, limits)
        elif all(isinstance(figures, dict) for figures in given.values()):
            tables.append(_by_name(key.removesuffix("s"), given, limits))
        else:
            rows += [
                (f"{words.figure(key)}: {words.figure(k)}", words.value(v, k), _limit(limits, k))
                for k, v in given.items()
            ]
    artefact = facts["passport"]["artefacts"][name]
    return {**result, "name": name, "runtime": artefact["runtime"], "rows": rows, "tables": tables}


def _limit(limits: Facts, key: str) -> str:
    return words.limit(limits.get(key), key)


def _by_name(first: str, rows: Facts, limits: Facts) -> dict[str, Any]:
    """A table of the same figures for each of several outputs or labels, raw_8 before raw_16."""
    keys = list(dict.fromkeys(k for figures in rows.values() for k in figures))
    named = [(words.name_and_unit(k), _limit(limits, k)) for k in keys if k in limits]

    def natural(name: str) -> list[tuple[int, str]]:
        return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]

    return {
        "first": first,
        "figures": keys,
        "rows": {name: rows[name] for name in sorted(rows, key=natural)},
        "limits": [f"{name} {limit} {unit}".strip() for (name, unit), limit in named],
    }


def _both(key: str, given: Facts, limits: Facts) -> list[tuple[str, str, str]]:
    """Figures that the original has too, and what was lost of them."""
    before, after = given["original"], given["converted"]
    if not isinstance(before, dict):
        before, after = {key: before}, {key: after}
    on = f" on {given['labelled_samples']} labelled samples" if "labelled_samples" in given else ""
    rows = []
    for k in before:
        shown = f"{words.value(before[k], k)} → {words.value(after[k], k)}"
        lost = (before[k] - after[k]) * 100
        shown += f", {abs(lost):.2f} points {'lost' if lost >= 0 else 'won'}"
        rows.append((f"{words.figure(k)}{on}, original → converted", shown, _limit(limits, k)))
    return rows
