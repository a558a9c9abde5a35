"""Every row of the table of faults is named by a test's docstring, as "Row 12: ..."."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
ROWS = range(1, 50)
NAMED = re.compile(r"\bRows? (\d+(?:(?:, | and | to )\d+)*)")


def rows(text: str) -> set[int]:
    """The rows that a docstring names: "Row 12", "Rows 1 to 5 and 11"."""
    found: set[int] = set()
    for match in NAMED.finditer(text):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", match[1]):
            found.update(range(int(first), int(last or first) + 1))
    return found


def docstrings(source: str) -> Iterator[str]:
    """Those of the module, if it holds tests, and of its tests."""
    tree = ast.parse(source)
    tests = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    documented: list[ast.Module | ast.FunctionDef] = [tree, *tests] if tests else []
    for node in documented:
        yield ast.get_docstring(node) or ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Row 12: the number of answers.", {12}),
        ("Rows 1 to 3 and 11: pictures.", {1, 2, 3, 11}),
        ("Rows 6, 7 and 9 for volumes. Row 22 on a GPU.", {6, 7, 9, 22}),
        ("Rows of best-N lists; 12 rows; arrow 5", set()),
    ],
)
def test_rows_are_read_from_docstrings(text: str, expected: set[int]) -> None:
    assert rows(text) == expected


def test_a_docstring_of_no_test_does_not_count() -> None:
    source = '"""Row 1."""\ndef helper():\n    """Row 2."""\n'
    assert list(docstrings(source)) == []
    assert list(docstrings(source + 'def test_x():\n    "Row 3."')) == ["Row 1.", "Row 3."]


def test_every_row_has_a_test() -> None:
    texts = [
        text
        for path in TESTS.rglob("test_*.py")
        if path != Path(__file__)
        for text in docstrings(path.read_text(encoding="utf-8"))
    ]
    named = set().union(*map(rows, texts))
    assert not set(ROWS) - named, f"rows that no test names: {sorted(set(ROWS) - named)}"
    assert not named - set(ROWS), f"no such rows: {sorted(named - set(ROWS))}"
