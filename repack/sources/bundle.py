"""A MONAI bundle's files and configuration, read as data: nothing of it is imported or executed.

MONAI's own ``ConfigParser`` imports whatever ``_target_`` names and passes whatever begins with
``$`` to ``eval``. Here a reference (``@image_key``) is looked up, an expression is computed where
it is no more than numbers, texts, lists and arithmetic, and anything else is refused by name.
"""

from __future__ import annotations

import ast
import operator
import re
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from repack.sources.content import zip_names
from repack.sources.errors import UnreadableFile, UnsupportedLayout, printable
from repack.sources.facts import MAX_TEXT_BYTES, Facts, parse, read_text

METADATA = "configs/metadata.json"
INFERENCE = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")

MAX_DEPTH = 24
"""References to references, and lists in lists."""

MAX_VALUES = 50_000
"""Values that a configuration may expand to: references to references grow without end."""

MAX_LENGTH = 1000
"""Letters of an expression; letters or items of what is put together in one."""

MAX_NUMBER = 2**63
"""Largest number that is computed with."""

_REFERENCE = re.compile(r"@([\w.]+(?:(?:#|::)[\w.]+)*)")
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_FAULTS = (ValueError, TypeError, SyntaxError, ArithmeticError)
_TYPES = {"torch.float32": "float32", "np.float32": "float32", "numpy.float32": "float32"}


class Bundle:
    """The files of a bundle, in a folder or a zip."""

    def __init__(self, path: Path):
        self.path = path
        self.zip = path.is_file()
        self.root = _root(path) if self.zip else ""

    def has(self, name: str) -> bool:
        if not self.zip:
            return (self.path / name).is_file()
        with zipfile.ZipFile(self.path) as archive:
            return self.root + name in archive.namelist()

    def config(self, name: str) -> dict[str, Any]:
        """A configuration file's mapping, references and expressions as they stand.

        Raises:
            UnreadableFile: missing, too large, neither JSON nor YAML.
        """
        where = self.path / name
        return parse(where, self._bytes(name) if self.zip else read_text(where))

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A file of the bundle as a path; one out of a zip lives as long as the context."""
        if not self.zip:
            yield self.path / name
            return
        with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
            target = Path(folder) / PurePosixPath(name).name
            with zipfile.ZipFile(self.path) as archive, target.open("wb") as out:
                info = archive.getinfo(self.root + name)
                if info.file_size > 200 * max(info.compress_size, 1):
                    raise UnreadableFile(self.path, f"{name} unpacks to {info.file_size:,} bytes")
                with archive.open(info) as stream:
                    while block := stream.read(2**20):
                        out.write(block)
            yield target

    def _bytes(self, name: str) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            try:
                info = archive.getinfo(self.root + name)
            except KeyError:
                raise UnreadableFile(self.path / name, "no such file") from None
            if info.file_size > MAX_TEXT_BYTES:
                raise UnreadableFile(self.path / name, f"{info.file_size:,} bytes")
            return archive.read(info)


def is_bundle(path: Path) -> bool:
    """Whether a folder or a zip looks like a MONAI bundle."""
    if path.is_dir():
        return (path / METADATA).is_file()
    if not path.is_file():  # nor a pipe, which would wait for its other end
        return False
    return any(name.endswith(METADATA) for name in zip_names(path) or ())


def _root(path: Path) -> str:
    """The folder inside the zip that the bundle is in, with a slash; often its name."""
    with zipfile.ZipFile(path) as archive:
        found = [name for name in archive.namelist() if name.endswith(METADATA)]
    return min(found, key=len).removesuffix(METADATA)


class Config:
    """``inference.json`` as data.

    Args:
        path: the file, for messages.
        data: its mapping.
        unused: by the ``_target_`` of a component, its arguments that change nothing here. They are
            left out without being computed, since they are often more than data, as devices are.
    """

    def __init__(
        self,
        path: Path,
        data: Mapping[str, Any],
        unused: Callable[[str], Collection[str]] = lambda target: (),
    ):
        self.path = path
        self.data = data
        self.unused = unused
        self._values = 0

    def section(self, name: str, keys: Collection[str] | None = None) -> Facts:
        """A section with its references looked up and its expressions computed.

        Args:
            keys: all that is wanted of it; None for everything.

        Raises:
            UnsupportedLayout: not there, or it holds something that is no data.
        """
        if name not in self.data:
            raise UnsupportedLayout(self.path, f"no {name!r}; expected it as in MONAI's bundles")
        given = self.data[name]
        if keys is not None and isinstance(given, Mapping):
            given = {key: value for key, value in given.items() if key in keys}
        return Facts(self.path, self.resolved(given, name), name)

    def resolved(self, value: object, place: str, depth: int = 0) -> Any:
        """``value`` without references and expressions; components stay mappings."""
        if depth > MAX_DEPTH:
            raise UnsupportedLayout(self.path, f"{place}: references that lead in a circle")
        self._values += 1
        if self._values > MAX_VALUES:
            raise UnsupportedLayout(
                self.path, f"{place}: its references expand to more than {MAX_VALUES:,} values"
            )
        if isinstance(value, Mapping):
            left_out = {"_desc_", "_requires_", *self.unused(str(value.get("_target_", "")))}
            kept = {k: v for k, v in value.items() if k not in left_out}
            return {k: self.resolved(v, f"{place}#{k}", depth + 1) for k, v in kept.items()}
        if isinstance(value, list):
            items = [(f"{place}#{i}", v) for i, v in enumerate(value)]
            return [self.resolved(v, at, depth + 1) for at, v in items if self._on(v, at, depth)]
        if isinstance(value, str) and value.startswith("@"):
            return self._looked_up(value, place, depth)
        if isinstance(value, str) and value.startswith("$"):
            return self._computed(value, place, depth)
        if isinstance(value, str) and value.startswith("%"):
            raise UnsupportedLayout(
                self.path, f"{place}: the macro {printable(value, 60)}; write it out"
            )
        return value

    def _on(self, item: object, place: str, depth: int) -> bool:
        """Whether an item of a list is not switched off."""
        if not isinstance(item, Mapping) or "_disabled_" not in item:
            return True
        return not self.resolved(item["_disabled_"], f"{place}#_disabled_", depth + 1)

    def _looked_up(self, text: str, place: str, depth: int) -> Any:
        match = _REFERENCE.fullmatch(text)
        found: Any = self.data
        for part in re.split("#|::", match[1]) if match else ():
            if isinstance(found, Mapping) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            else:
                match = None
                break
        if match is None:
            raise UnsupportedLayout(self.path, f"{place}: {printable(text, 60)} leads nowhere")
        return self.resolved(found, place, depth + 1)

    def _computed(self, text: str, place: str, depth: int) -> Any:
        names: dict[str, str] = {}
        if len(text) > MAX_LENGTH:
            raise UnsupportedLayout(
                self.path, f"{place}: an expression of {len(text):,} letters; write its value"
            )

        def name(match: re.Match[str]) -> str:
            return names.setdefault(match[0], f"reference_{len(names)}")

        source = _REFERENCE.sub(name, text[1:]).strip()
        known = {short: reference for reference, short in names.items()}

        def value(node: ast.AST) -> Any:
            found: Any
            if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
                found = node.value
            elif isinstance(node, ast.Name) and node.id in known:
                found = self._looked_up(known[node.id], place, depth + 1)
            elif isinstance(node, ast.List | ast.Tuple):
                found = [value(item) for item in node.elts]
            elif isinstance(node, ast.IfExp):
                found = value(node.body if value(node.test) else node.orelse)
            elif isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
                found = _SIGNS[type(node.op)](value(node.operand))
            elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
                found = _combine(node.op, value(node.left), value(node.right))
            elif isinstance(node, ast.Attribute) and ast.unparse(node) in _TYPES:
                found = _TYPES[ast.unparse(node)]
            else:
                raise ValueError("more than numbers, lists and arithmetic")
            return found

        try:
            return value(ast.parse(source, mode="eval").body)
        except (*_FAULTS, RecursionError, MemoryError) as error:
            raise UnsupportedLayout(
                self.path,
                f"{place}: the expression {printable(text, 120)!r} is not computed here "
                f"({printable(error, 80)}): write its value in its place",
            ) from None


def _combine(kind: ast.operator, left: Any, right: Any) -> Any:
    numbers = all(isinstance(v, int | float) for v in (left, right))
    same = isinstance(kind, ast.Add) and type(left) is type(right) and isinstance(left, list | str)
    if not numbers and not same:
        raise ValueError(f"{type(left).__name__} and {type(right).__name__} combined")
    if numbers and max(abs(left), abs(right)) > MAX_NUMBER:
        raise ValueError(f"a number over {MAX_NUMBER}")
    if same and len(left) + len(right) > MAX_LENGTH:
        raise ValueError(f"more than {MAX_LENGTH} letters or items together")
    return _ARITHMETIC[type(kind)](left, right)
