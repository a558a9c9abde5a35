"""The graph as an SVG: blocks from the input down to the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repack.report.layout import Layout, place
from repack.report.markup import Html, el

BOX, HIGH, GAP, LANE, STEP = 220, 54, 20, 14, 82
"""Width and height of a block, space beside it, width of a passing arrow, and from one layer to the
next, pixels."""

EDGE = 6
"""Space around the drawing, pixels."""

LETTERS, BOLD = 33, 25
"""Letters of a block's line that fit into it, and of its title, in wide typefaces too."""


def svg(graph: Mapping[str, Any]) -> Html:
    """Draws what ``repack.report.blocks.of_model`` found, at its natural size.

    Returns:
        The drawing, after a mark at the first block: a narrow box is scrolled there at first, by
        browsers that know ``scroll-initial-target``.
    """
    blocks = graph["blocks"]
    where = place([b["after"] for b in blocks], BOX, GAP, LANE)
    width = round(where.width + 2 * EDGE)
    height = (max(where.layer, default=0)) * STEP + HIGH + 2 * EDGE
    arrows = [_arrow(where, edge, way) for edge, way in sorted(where.ways.items())]
    boxes = [_box(b, where.across[i], where.layer[i]) for i, b in enumerate(blocks)]
    drawn = el(
        "svg",
        *arrows,
        *boxes,
        width=str(width),
        height=str(height),
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"Graph of {graph['nodes']:,} nodes, drawn as {len(blocks)} blocks",
        class_="graph",
    )
    left = where.across[0] - BOX / 2 if blocks else 0
    start = el("span", class_="start", style=f"left: {left:.0f}px; width: {BOX}px")
    return el("div", start, drawn, class_="canvas", style=f"width: {width}px")


def _box(block: Mapping[str, Any], across: float, layer: int) -> Html:
    left, top = across - BOX / 2 + EDGE, layer * STEP + EDGE
    kind = block.get("kind", "block")
    operators = ", ".join(f"{op} x {n}" if n > 1 else op for op, n in block["operators"].items())
    title = block["title"] or operators
    if kind in ("input", "output"):
        operators = f"{kind} {block['shape']}".strip()
    lines = [title, operators, block["shape"]]
    if kind in ("input", "output"):
        lines.pop()
    elif not block["title"]:
        lines.pop(0)
    full = " / ".join(part for part in (block["title"], operators, block["shape"]) if part)
    first = top + HIGH / 2 + 4 - 15 * (len(lines) - 1) / 2
    return el(
        "g",
        el("title", full),
        el(
            "rect",
            x=f"{left:.0f}",
            y=f"{top:.0f}",
            width=str(BOX),
            height=str(HIGH),
            rx="6",
            class_=f"box {kind}",
        ),
        *(
            el(
                "text",
                _cut(line, LETTERS if i else BOLD),
                x=f"{left + BOX / 2:.0f}",
                y=f"{first + 15 * i:.0f}",
                text_anchor="middle",
                class_="name" if i == 0 else "small",
            )
            for i, line in enumerate(lines)
        ),
    )


def _arrow(where: Layout, edge: tuple[int, int], way: list[float]) -> Html:
    """A line that leaves a block's foot, passes beside other blocks and ends at a block's head."""
    start = where.layer[edge[0]]
    path = [f"M{way[0] + EDGE:.0f} {start * STEP + HIGH + EDGE}"]
    for i in range(1, len(way)):
        top = (start + i) * STEP + EDGE
        middle = top - (STEP - HIGH) / 2
        path.append(
            f"C{way[i - 1] + EDGE:.0f} {middle:.0f} {way[i] + EDGE:.0f} {middle:.0f} "
            f"{way[i] + EDGE:.0f} {top}"
        )
        if i < len(way) - 1:
            path.append(f"V{top + HIGH}")
    end, tip = way[-1] + EDGE, where.layer[edge[1]] * STEP + EDGE
    head = f"M{end - 4:.0f} {tip - 7}L{end:.0f} {tip}L{end + 4:.0f} {tip - 7}"
    return el("path", d=" ".join(path) + head, class_="arrow")


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 3]}..."
