"""Every name that the kit uses of TensorRT is in the published bindings of 10 and 11.

Their libraries are not published: what can be checked is that no call meets a name that is gone.
TensorRT for RTX, whose library is (``tests/tensorrt_rtx``), is looked into as well: what runs an
engine needs a GPU there, too. The names are read from the source by its syntax tree, those of the
bindings from the strings of their shared library, which holds each exported name.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
VERSIONS = ("10.16.1.11", "11.4.0.106")
RTX = "for RTX"
FILES = (
    *sorted((ROOT / "handlers" / "engines").glob("*.py")),
    ROOT / "handlers" / "runtimes" / "tensorrt_.py",
    *(
        path
        for path in sorted((ROOT / "repack" / "backends" / "tensorrt").glob("*.py"))
        if path.name != "from_module.py"  # torch2trt's own objects
    ),
    ROOT / "repack" / "sources" / "engine.py",
)
OBJECTS = {
    *("trt", "tensorrt", "builder", "config", "network", "parser", "profile", "context"),
    *("engine", "inspector", "error", "flag", "layer", "_runtime", "engines"),
}
"""What the kit calls TensorRT's objects."""

ALSO = {"build.py": {"cache"}, "tensorrt_.py": {"model"}}
"""And in one file only: elsewhere the word means something else."""

OURS = {"build", "engines", "get", "split"}
"""Attributes of these that are the kit's own or Python's."""

NO_TRT_FILES = {"cache.py"}


def used(tree: ast.AST, file: str = "") -> Iterator[str]:
    """Names taken from TensorRT's objects: ``config.set_flag``, ``trt.BuilderFlag.TF32``."""
    objects = OBJECTS | ALSO.get(file, set())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and root(node.value, objects) in objects:
            name = node.attr
            if not name.startswith("__") and name not in OURS:
                yield name


def root(node: ast.AST, objects: set[str]) -> str | None:
    """The object that a chain of attributes, calls and indices begins at, as the kit names it."""
    while True:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            if node.attr.startswith("__"):
                return None  # __version__ is Python's own text
            if node.attr in objects:
                return node.attr
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Subscript):
            node = node.value
        else:
            return None


@cache
def names() -> tuple[frozenset[str], frozenset[str]]:
    """What all versions need, and what only the dialect of 8.6 does (class ``Flags``)."""
    shared: set[str] = set()
    flags: set[str] = set()
    for path in FILES:
        if path.name in NO_TRT_FILES:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.iter_child_nodes(tree):
            only_8 = isinstance(node, ast.ClassDef) and node.name == "Flags"
            (flags if only_8 else shared).update(used(node, path.name))
    return frozenset(shared), frozenset(flags - shared)


@pytest.fixture(scope="module", params=[*VERSIONS, RTX])
def bindings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bindings' shared library and Python files (1.3 MB a wheel, from the package index).

    ``KIT_TEST_WHEELS`` keeps the wheels from run to run. Those for RTX are installed.
    """
    if request.param == RTX:
        installed = find_spec("tensorrt_rtx_bindings")
        assert installed is not None
        assert installed.origin is not None
        files = sorted(Path(installed.origin).parent.glob("*"))
        return b"\0".join(f.read_bytes() for f in files if f.suffix in (".so", ".py"))
    given = os.environ.get("KIT_TEST_WHEELS")
    folder = Path(given) if given else tmp_path_factory.mktemp("wheels")
    folder.mkdir(parents=True, exist_ok=True)
    wheel = found(folder, request.param)
    if wheel is None:
        wanted = [f"tensorrt-cu13-bindings=={request.param}", "--only-binary=:all:", "--no-deps"]
        system = ["--python-version", "3.12", "--platform", "manylinux_2_28_x86_64"]
        command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(folder)]
        done = subprocess.run(
            [*command, *wanted, *system], capture_output=True, text=True, check=False
        )
        wheel = found(folder, request.param)
        if wheel is None:
            last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            pytest.skip(f"no bindings of TensorRT {request.param} to look into ({last})")
    with zipfile.ZipFile(wheel) as z:
        read = [n for n in z.namelist() if n.startswith("tensorrt_bindings/")]
        return b"\0".join(z.read(n) for n in read if n.endswith((".so", "__init__.py")))


def found(folder: Path, version: str) -> Path | None:
    return next(iter(folder.glob(f"tensorrt_cu13_bindings-{version}-*.whl")), None)


def has(library: bytes, name: str) -> bool:
    """Whether a C string ends in the name: one string may be the tail of another."""
    return name.encode() + b"\0" in library


def test_the_names_are_found_in_the_source() -> None:
    shared, flags = names()
    assert {"build_serialized_network", "execute_async_v3", "set_shape", "TF32"} <= shared
    assert {"EXPLICIT_BATCH", "IInt8EntropyCalibrator2", "FP16", "INT8"} <= flags
    assert "serialize" in shared
    assert len(shared) > 40


def test_every_name_of_the_code_is_in_the_bindings(bindings: bytes) -> None:
    shared, _ = names()
    assert [name for name in sorted(shared) if not has(bindings, name)] == []


def test_the_check_can_fail(bindings: bytes) -> None:
    """It sees names that were there in 8.6 and are gone, and those that never were."""
    for gone in ("max_workspace_size", "get_binding_shape", "execute_async_v2", "no_such_name"):
        assert not has(bindings, gone)
    (made_up,) = used(ast.parse("config.set_flags_of_tomorrow(1)"))
    assert not has(bindings, made_up)


def test_what_only_8_has_is_kept_in_a_class_of_its_own(bindings: bytes) -> None:
    """Calibrators and flags of precision: 10 has them still, 11 has none."""
    _, flags = names()
    gone = {name for name in flags if not has(bindings, name)}
    if has(bindings, "IInt8EntropyCalibrator2"):
        assert gone == set()
    else:
        assert {"EXPLICIT_BATCH", "FP16", "PREFER_PRECISION_CONSTRAINTS"} <= gone
