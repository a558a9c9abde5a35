"""Where tests lie: none is imported by another, and tests/unit mirrors the packages."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
MODULES = sorted(path for path in TESTS.rglob("*.py") if "__pycache__" not in path.parts)


def imported(tree: ast.Module) -> Iterator[str]:
    """The dotted names that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{n.name}" for n in node.names)


def _tests_imported(source: str) -> list[str]:
    """Imports of test modules or of a conftest; what several tests need lies in tests/support."""
    return [
        name
        for name in imported(ast.parse(source))
        if name.startswith(("tests.", "."))
        and any(part == "conftest" or part.startswith("test_") for part in name.split("."))
    ]


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("from tests.faults.test_x import npy", 1),
        ("from tests.faults import test_x", 1),
        ("import tests.conftest as c", 1),
        ("from .conftest import c", 1),
        ("def f():\n    from tests.conftest import c", 1),
        ("from tests.support import made\nfrom torch.testing import assert_close", 0),
    ],
)
def test_such_an_import_is_seen(line: str, count: int) -> None:
    assert len(_tests_imported(line)) == count


def test_no_test_is_imported_by_another() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in MODULES
        if (names := _tests_imported(path.read_text(encoding="utf-8")))
    }
    assert not found


def test_unit_tests_lie_where_the_code_lies() -> None:
    unit = TESTS / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")}
    places = {folder: (ROOT / folder, ROOT / f".{folder}") for folder in folders}  # tests of .ci
    astray = [str(f) for f, either in places.items() if not any(p.is_dir() for p in either)]
    assert not astray
