"""HTML that cannot be broken from outside: every string is escaped unless it was made here."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

LONGEST = 400
"""Letters of one foreign string that are shown."""

HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control, invisible and direction-changing characters: shown by their number instead."""

VOID = {"img", "meta", "rect", "line", "path", "circle"}


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def escape(value: object) -> Html:
    """Any value as text of a page, or as it is where it is markup."""
    if isinstance(value, Html):
        return value
    text = str(value)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}... ({len(text) - LONGEST:,} more letters)"
    return Html(html.escape(_visible(text)))


def el(tag: str, *children: object, **attributes: object) -> Html:
    """One element.

    Args:
        children: escaped where they are not ``Html``.
        attributes: "class_" is class, "_" in a name is "-"; None is left out.
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in VOID:
        return Html(f"<{tag}{given}>" if tag in ("img", "meta") else f"<{tag}{given}/>")
    return Html(f"<{tag}{given}>{join(children)}</{tag}>")


def join(parts: Iterable[object]) -> Html:
    """Parts one after the other, escaped where they are not ``Html``."""
    return Html("".join(escape(part) for part in parts))


def table(
    caption: object, head: Sequence[object], rows: Iterable[Sequence[object]], numbers: str = ""
) -> Html:
    """A table under its caption, in a box of its own that scrolls where the screen is narrow.

    Args:
        numbers: one letter a column, "n" for those that hold numbers.
    """
    kinds = [("number" if k == "n" else None) for k in numbers.ljust(len(head))]
    top = [el("th", h, scope="col", class_=k) for h, k in zip(head, kinds, strict=True)]
    body = [
        el("tr", *(el("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)))
        for row in rows
    ]
    inner = el(
        "table",
        el("thead", el("tr", *top)),
        el("tbody", *body),
        class_="wide" if len(head) > WIDE else None,
    )
    box = el("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)
    return el("figure", el("figcaption", caption), box, class_="table")


WIDE = 4
"""Columns that fit on a telephone; a table with more gets a least width, and scrolls there."""


def figure(caption: object, *content: object, class_: str | None = None) -> Html:
    """A picture or drawing with its caption."""
    return el("figure", *content, el("figcaption", caption), class_=class_)


def section(title: str, *content: object) -> Html:
    """A section under a heading of the second level."""
    name = re.sub(r"\W+", "-", title.lower()).strip("-")
    return el("section", el("h2", title, id=name), *content, aria_labelledby=name)


def _attribute(value: object) -> str:
    return html.escape(_visible(str(value)))


def _visible(text: str) -> str:
    return HIDDEN.sub(lambda m: f"\\u{ord(m[0]):04x}", text)
