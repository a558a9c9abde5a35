"""No package of ours imports upward, and no modules import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDER = ("handlers", "repack", "deploy", "qpstest", "benchmarks")
"""Each may import itself and those before it."""

Imports = Mapping[str, set[str]]


def imported(module: str, tree: ast.AST, known: set[str], package: bool) -> Iterator[str]:
    """The modules of ``known`` that a module imports: anywhere, for type checkers only, too."""
    parts = module.split(".") if package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                for name in (f"{base}.{alias.name}", base):
                    if name in known:
                        yield name
                        break


def imports(root: Path, packages: tuple[str, ...]) -> Imports:
    """What each module of these packages imports of them."""
    files = {}
    for path in (p for package in packages for p in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = {}
    for name, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        told = imported(name, tree, set(files), path.name == "__init__.py")
        found[name] = set(told) - {name}
    return found


def circles(graph: Imports) -> set[frozenset[str]]:
    """Modules that reach each other, two or more at a time."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    every = {name: reached(name) for name in graph}
    rings = {
        frozenset(other for other in seen if name in every[other])
        for name, seen in every.items()
        if name in seen
    }
    return {ring for ring in rings if len(ring) > 1}


def upward(graph: Imports) -> list[str]:
    def level(module: str) -> int:
        return ORDER.index(module.partition(".")[0])

    return [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if level(other) > level(name)
    ]


def test_no_package_imports_upward() -> None:
    graph = imports(ROOT, ORDER)
    assert all(any(name.startswith(package) for name in graph) for package in ORDER)
    assert upward(graph) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = circles(imports(ROOT, ORDER))
    assert [sorted(ring) for ring in found] == []


@pytest.mark.parametrize(
    "line",
    [
        "from repack import b",
        "from repack.b import thing",
        "import repack.b",
        "from . import b",
        "from .b import thing",
        "def later():\n    from repack.b import thing",
        "if TYPE_CHECKING:\n    from repack import b",
    ],
)
def test_circles_of_every_kind_are_seen(tmp_path: Path, line: str) -> None:
    for name, text in (("a", line), ("b", "import repack.c"), ("c", "from repack.a import x")):
        path = tmp_path / "repack" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "repack" / "__init__.py").write_text("from repack import a, b\nimport json")
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "x.py").write_text("from repack.a import y")
    graph = imports(tmp_path, ("handlers", "repack"))
    assert circles(graph) == {frozenset({"repack.a", "repack.b", "repack.c"})}
    assert upward(graph) == ["handlers.x imports repack.a"]
