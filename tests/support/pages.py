"""The README and the pages of docs/, taken apart for tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
HEADING = re.compile(r"^(#+) +(.*)$", re.M)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """What stands between fences of these languages; "" is a fence without one."""
    return [body for language, body in FENCED.findall(text) if language in languages]


def commands(text: str) -> list[str]:
    """The command lines that a reader is promised to work: those of ```bash blocks."""
    return [line for block in blocks(text, "bash") for line in block.splitlines() if line.strip()]


def unfenced(text: str) -> str:
    return FENCED.sub("", text)


def codes(text: str) -> list[str]:
    """Every `inline code`."""
    return re.findall(r"`([^`\n]+)`", unfenced(text))


def prose(text: str) -> str:
    """What is neither a block nor inline code."""
    return re.sub(r"`[^`\n]+`", "", unfenced(text))


def section(text: str, title: str) -> str:
    """From a heading to the next one of its own level or above.

    Raises:
        LookupError: no such heading.
    """
    for found in HEADING.finditer(text):
        if found[2] == title:
            rest = text[found.end() :]
            ends = (h.start() for h in HEADING.finditer(rest) if len(h[1]) <= len(found[1]))
            return rest[: next(ends, len(rest))]
    raise LookupError(f"no heading {title!r}")


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table's rows; heads and rules are no rows."""
    inside = False
    for line in text.splitlines():
        if line.startswith("|--"):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside:
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def anchors(text: str) -> set[str]:
    """What #... may name, as GitHub makes it of headings."""
    found: set[str] = set()
    for _, title in HEADING.findall(unfenced(text)):
        kept = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", title).lower())
        slug, number = kept.strip().replace(" ", "-"), 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def links(text: str) -> list[str]:
    """Targets of links and pictures that are no addresses on the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "", unfenced(text)))
    return [target for target in found if not re.match(r"\w+:", target)]
