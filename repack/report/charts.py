"""Bars as inline SVG for any width: lengths are shares of it, text keeps its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from repack.report.markup import Html, el, figure

ROW, BAR = 40, 14
"""Height of a bar with its line of text, and of the bar, pixels."""


class Bar(NamedTuple):
    """One bar.

    Attributes:
        value: its length, in the chart's unit.
        text: the value in words, with its unit.
        kind: a class of the style sheet.
    """

    label: str
    value: float
    text: str
    kind: str = "other"


def bars(given: Sequence[Bar], caption: str, whole: float | None = None) -> Html:
    """Horizontal bars with a caption.

    Args:
        whole: the value of a bar over the whole width; the largest where not given.
    """
    longest = whole or max((b.value for b in given), default=0) or 1
    parts: list[Html] = []
    for i, bar in enumerate(given):
        top = i * ROW
        share = max(0.0, min(1.0, bar.value / longest))
        parts += [
            el("text", bar.label, x="0", y=str(top + 14)),
            el("text", bar.text, x="100%", y=str(top + 14), text_anchor="end", class_="value"),
            el("rect", x="0", y=str(top + 20), width="100%", height=str(BAR), class_="track"),
            el(
                "rect",
                x="0",
                y=str(top + 20),
                width=f"{share:.2%}",
                height=str(BAR),
                class_=bar.kind,
            ),
        ]
    spoken = "; ".join(f"{b.label}: {b.text}" for b in given)
    drawn = el(
        "svg", *parts, width="100%", height=str(ROW * len(given)), role="img", aria_label=spoken
    )
    return figure(caption, drawn, class_="bars")


def shares(given: Mapping[str, float], asked: str, of: str) -> Html:
    """Shares of a whole by precision, the one asked for marked.

    Args:
        given: shares of 1.
        of: what the shares are of, for example "layers".
    """
    rows = [
        Bar(kind, value, f"{value:.1%}", "good" if kind == asked else "other")
        for kind, value in sorted(given.items(), key=lambda item: -item[1])
    ]
    return bars(rows, f"Share of {of} by precision, percent.", whole=1)
