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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from repack.sources.errors import UnreadableFile, UnsupportedLayout, printable
from repack.sources.facts import MAX_TEXT_BYTES, Facts, parse, read_text

METADATA = "configs/metadata.json"
INFERENCE = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")

MAX_DEPTH = 24
"""References to references, and lists in lists."""

MAX_VALUES = 20_000
"""Values that a configuration may have once its references are looked up: each may stand for many,
and they for as many again."""

MAX_EXPRESSION, MAX_LENGTH, MAX_NUMBER = 1000, 10_000, 1 << 64
"""Characters of an expression; items or characters, and size, of what it comes to."""

_REFERENCE = re.compile(r"@([\w.]+(?:(?:#|::)[\w.]+)*)")
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
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
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(METADATA) for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


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
    """

    def __init__(self, path: Path, data: Mapping[str, Any]):
        self.path = path
        self.data = data
        self._values = 0

    def section(self, name: str) -> Facts:
        """A section with its references looked up and its expressions computed.

        Raises:
            UnsupportedLayout: not there, or it holds something that is no data.
        """
        if name not in self.data:
            raise UnsupportedLayout(self.path, f"no {name!r}; expected it as in MONAI's bundles")
        return Facts(self.path, self.resolved(self.data[name], name), name)

    def resolved(self, value: object, place: str, depth: int = 0) -> Any:
        """``value`` without references and expressions; components stay mappings."""
        self._values += 1
        if self._values > MAX_VALUES:
            raise UnsupportedLayout(
                self.path, f"{place}: more than {MAX_VALUES:,} values once references are looked up"
            )
        if depth > MAX_DEPTH:
            raise UnsupportedLayout(self.path, f"{place}: references that lead in a circle")
        if isinstance(value, Mapping):
            kept = {k: v for k, v in value.items() if k not in ("_desc_", "_requires_")}
            return {k: self.resolved(v, f"{place}#{k}", depth + 1) for k, v in kept.items()}
        if isinstance(value, list):
            kept_items = [v for v in value if not (isinstance(v, Mapping) and v.get("_disabled_"))]
            return [self.resolved(v, f"{place}#{i}", depth + 1) for i, v in enumerate(kept_items)]
        if isinstance(value, str) and value.startswith("@"):
            return self._looked_up(value, place, depth)
        if isinstance(value, str) and value.startswith("$"):
            return self._computed(value, place, depth)
        if isinstance(value, str) and value.startswith("%"):
            raise UnsupportedLayout(
                self.path, f"{place}: the macro {printable(value, 60)}; write it out"
            )
        return value

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

        def name(match: re.Match[str]) -> str:
            return names.setdefault(match[0], f"reference_{len(names)}")

        source = _REFERENCE.sub(name, text[1:]).strip()
        known = {short: reference for reference, short in names.items()}

        def value(node: ast.AST) -> Any:
            if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
                return node.value
            if isinstance(node, ast.Name) and node.id in known:
                return self._looked_up(known[node.id], place, depth + 1)
            if isinstance(node, ast.List | ast.Tuple):
                return [value(item) for item in node.elts]
            if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
                return -value(node.operand)
            if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
                return _combine(node.op, value(node.left), value(node.right))
            if isinstance(node, ast.Attribute) and ast.unparse(node) in _TYPES:
                return _TYPES[ast.unparse(node)]
            raise ValueError("more than numbers, lists and arithmetic")

        try:
            if len(text) > MAX_EXPRESSION:
                raise ValueError(f"more than {MAX_EXPRESSION:,} characters")
            return value(ast.parse(source, mode="eval").body)
        except (ValueError, TypeError, SyntaxError, ArithmeticError, RecursionError) as error:
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
    if same and len(left) + len(right) > MAX_LENGTH:
        raise ValueError(f"more than {MAX_LENGTH:,} items")
    found = _ARITHMETIC[type(kind)](left, right)
    if numbers and abs(found) > MAX_NUMBER:
        raise ValueError("a number of more than 64 bits")
    return found
