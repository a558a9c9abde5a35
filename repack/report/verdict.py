"""The page's first half: may it be shipped, what was not checked, and why this form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repack.report import words
from repack.report.charts import Bar, bars, shares
from repack.report.markup import Html, el, join, section, table

Facts = Mapping[str, Any]


def header(facts: Facts) -> Html:
    """Name, verdict, and the figures that a decision rests on."""
    passport, chosen = facts["passport"], _chosen(facts)
    gate = passport["gate"]["accelerated"]
    open_ones = [n for n in facts["not_checked"] if n["serious"]]
    form = words.form(chosen["backend"], chosen["precision"], chosen.get("via"))
    source = passport["source"]
    what = (
        f"{source.get('file', 'The model')} ({source.get('family', '?')}, "
        f"{source.get('network', '?')}; task {passport['task']}) was converted to {form}. "
        f"It answered like the original, within the gate's limits, on "
        f"{words.count(gate['inputs'])}."
    )
    if gate["passed"] is None:
        mark, title = "caution", "Not proven: nobody compared it with its original"
        what = f"{source.get('file', 'The file')} was packed as it is, for {form}."
        advice = f"{gate['note'][:1].upper()}{gate['note'][1:]}."
    elif open_ones:
        mark, title = "caution", "Passed, but too little was compared to ship it on this"
        missing = words.listing([n["what"].lower() for n in open_ones])
        it, is_ = ("it", "it is") if len(open_ones) == 1 else ("them", "they are")
        advice = f"Not settled here: {missing}. Settle {it}, or ship knowing that {is_} open."
    else:
        mark, title = "good", "Passed: it may be shipped"
        advice = (
            "Nothing that the kit can compare for such a model was left out. Look at the pictures "
            "and the figures below, then ship it if you agree."
        )
        if "none" in facts["pictures"]:
            advice = advice.replace("the pictures and ", "")
    banner = el(
        "div",
        el("p", title, class_="mark"),
        el("p", what),
        el("p", advice),
        class_=f"banner {mark}",
    )
    tiles = el("dl", *(_tile(*t) for t in _tiles(facts, chosen)), class_="tiles")
    return el(
        "header",
        el("p", "torchserve-repack: report of the archive", class_="over"),
        el("h1", f"{passport['name']} {passport['version']}"),
        banner,
        tiles,
    )


def not_checked(facts: Facts) -> Html:
    """What nobody compared, the serious first."""
    notes = sorted(facts["not_checked"], key=lambda n: not n["serious"])
    items = [
        el("li", el("b", n["what"]), f": {n['why']}", class_="serious" if n["serious"] else None)
        for n in notes
    ]
    return section("What was not checked", el("ul", *items, class_="notes"))


def choice(facts: Facts) -> Html:
    """All candidates, with the times as bars and everything else as a table."""
    candidates, chosen = facts["candidates"], facts["chosen"]
    passed = [c for c in candidates if c["verdict"] == "passed"]
    asked = (
        "every form"
        if facts["asked"]["backend"] == "auto"
        else (f"{words.runtime(facts['asked']['backend'])} only")
    )
    if facts["asked"]["precision"] != "auto":
        asked += f", in {facts['asked']['precision']}"
    why = (
        f"Asked for: {asked}. {len(candidates)} tried, {len(passed)} passed the gate; the fastest "
        "of these was chosen."
    )
    if not passed:
        why = "It was given ready; nothing else was tried."
    drawn = [
        Bar(
            words.form(c["backend"], c["precision"], c.get("via"))
            + (", chosen" if _is(c, chosen) else ""),
            c["per_item_ms"],
            f"{c['per_item_ms']:.2f} ms",
            "good" if _is(c, chosen) else "other",
        )
        for c in sorted(passed, key=lambda c: c["per_item_ms"] or 0)
        if c["per_item_ms"]
    ]
    rows = [_candidate(c, chosen) for c in candidates]
    head = (
        *("form", "asked", "found", "ms, one call", "ms per item"),
        *("relative L2 error", "verdict"),
    )
    machine = facts["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores"
    return section(
        f"Why {words.form(chosen['backend'], chosen['precision'], chosen.get('via'))}",
        el("p", why),
        bars(drawn, f"Milliseconds per item, shorter is better. {facts['timing']} ({where}).")
        if drawn
        else "",
        table("All forms that were tried", head, rows, "   nnn "),
    )


def precision(facts: Facts) -> Html:
    """Precision asked and found, of the chosen and of the portable form."""
    parts = []
    for name, artefact in facts["passport"]["artefacts"].items():
        found, asked = artefact["precision_found"], artefact["precision_asked"]
        form = f"{name}: {words.runtime(artefact['runtime'])}"
        said = f"Asked for {asked}; the runtime says that it runs {found['label']}."
        if found.get("kept"):
            said += (
                f" {found['kept']:.0%} of the multiply-adds are in layers next to inputs and "
                "outputs, which int8 leaves in floats on purpose."
            )
        parts.append(
            el(
                "div",
                el("h3", form),
                el("p", said),
                *(
                    shares(found[key], asked, of)
                    for key, of in (
                        ("layers", "the heavy layers (convolutions, matrix products)"),
                        ("flops", "multiply-adds"),
                    )
                    if found.get(key)
                ),
            )
        )
    lead = (
        "Read back from the runtime after it had loaded the model, so a silent change of precision "
        "would show here. The portable form is what a worker falls back to, and announces, where "
        "the accelerated one's library is missing."
    )
    return section("Precision asked and found", el("p", lead), el("div", *parts, class_="pair"))


def _tile(name: str, value: str, note: str) -> Html:
    return el("div", el("dt", name), el("dd", value), el("dd", note, class_="note"))


def _tiles(facts: Facts, chosen: Facts) -> list[tuple[str, str, str]]:
    gate = facts["passport"]["gate"]["accelerated"]
    found = gate["precision_found"]
    share = found["flops"].get(chosen["precision"])
    tiles = [
        (
            "runs in",
            words.form(chosen["backend"], found["label"]),
            f"{share:.1%} of multiply-adds" if share is not None else "share not known",
        )
    ]
    if chosen["ms"]:
        tiles.append(("one call", f"{chosen['ms']:.2f} ms", _speed(facts, chosen)))
    if gate["passed"] is None:
        tiles.append(("agreement", "not proven", "no original to compare with"))
    else:
        tiles.append(_agreement(gate, facts["limits"].get(chosen["precision"], {})))
    tiles.append(("archive", words.size(facts["bytes"]), facts["archive"]))
    return tiles


def _speed(facts: Facts, chosen: Facts) -> str:
    portable = facts["passport"]["artefacts"].get("portable", {})
    for c in facts["candidates"]:
        same = (c["backend"], c["precision"]) == (portable.get("runtime"), "f32")
        if same and c["ms"] and not _is(c, chosen):
            form = words.form(c["backend"], c["precision"])
            return f"{c['ms'] / chosen['ms']:.1f} times as fast as {form}"
    return "the smallest batch"


def _agreement(gate: Facts, limits: Facts) -> tuple[str, str, str]:
    """The figure of the model's own task, or the largest error of its outputs."""
    task = gate["task"]
    scores = task.get("map")
    if isinstance(scores, dict):
        before, after = (scores[k]["map50_95"] for k in ("original", "converted"))
        return (
            "accuracy",
            f"mAP50-95 {after:.4f}",
            f"original {before:.4f}, {scores['labelled_samples']} samples",
        )
    labels = label_rows(task)
    dice = [v["dice"] for _, v in labels if isinstance(v.get("dice"), (int, float))]
    if dice:
        return "agreement", f"Dice {min(dice):.4f}", f"worst of {len(dice)} labels"
    if isinstance(task.get("boxes_matched"), float):
        return (
            "agreement",
            f"{task['boxes_matched']:.1%} of boxes",
            f"{task['boxes_compared']} compared",
        )
    errors = [v["relative_l2"] for v in gate["outputs"].values() if "relative_l2" in v]
    limit = limits.get("relative_l2")
    note = f"limit {words.number(limit)}" if limit is not None else ""
    return "relative L2 error", words.number(max(errors)) if errors else "none", note


def label_rows(task: Facts) -> list[tuple[str, dict[str, Any]]]:
    """Name and figures per label of a segmentation, however the gate lists them."""
    given = task.get("labels")
    if isinstance(given, dict):
        return [(str(k), dict(v)) for k, v in given.items() if isinstance(v, dict)]
    rows = [dict(v) for v in given or [] if isinstance(v, dict)]
    return [(str(v.pop("label", v.pop("name", i))), v) for i, v in enumerate(rows)]


def _candidate(c: Facts, chosen: Facts) -> list[object]:
    found, error = "none", "none"
    if c["gate"]:
        found = c["gate"]["precision_found"]["label"]
        errors = [v["relative_l2"] for v in c["gate"]["outputs"].values() if "relative_l2" in v]
        error = words.number(max(errors)) if errors else "none"
    name = words.form(c["backend"], "", c.get("via")).strip()
    good = c["verdict"] == "passed"
    other = "not compared" if _is(c, chosen) else "not taken"
    mark = el("span", "passed" if good else other, class_=f"tag {'good' if good else 'bad'}")
    said = mark if good else join([mark, " ", c["verdict"]])
    shown = el("b", f"{name} (chosen)") if _is(c, chosen) else name
    times = [f"{c[k]:.2f}" if c[k] else "none" for k in ("ms", "per_item_ms")]
    return [shown, c["precision"], found, *times, error, said]


def _chosen(facts: Facts) -> Facts:
    return next(c for c in facts["candidates"] if _is(c, facts["chosen"]))


def _is(candidate: Facts, chosen: Facts) -> bool:
    return all(candidate.get(k) == chosen.get(k) for k in ("backend", "via", "precision"))
