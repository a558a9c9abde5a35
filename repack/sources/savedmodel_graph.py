"""Which operators a TensorFlow SavedModel holds, read from its bytes without TensorFlow.

The fields are those of TensorFlow's ``saved_model.proto``, ``meta_graph.proto``, ``graph.proto``,
``function.proto`` and ``saved_object_graph.proto``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repack.sources.errors import UnreadableFile, UnsupportedLayout, printable

META_GRAPHS = 2
GRAPH_DEF, OBJECT_GRAPH = 2, 7
NODES, LIBRARY = 1, 2
FUNCTIONS = 1
SIGNATURE, FUNCTION_NODES = 1, 3
NAME, OPERATOR = 1, 2

CHECKPOINT = re.compile(r"(Save|Restore|MergeV2|Sharded).*")
"""Operators that write and read checkpoints. Every SavedModel holds them, for saving it again; that
they are not called while it is loaded is checked."""

OUTSIDE = re.compile(
    r"(Read|Write|Matching)Files?|.*PyFunc.*|Print(V2)?|Debug.*|.*Summary.*|.*Dataset.*"
    r"|.*Reader.*|InitializeTableFromTextFile.*|.*(Send|Recv).*|Rpc.*|.*Remote.*|.*Rpc.*"
    r"|Collective.*|Load(Library|AndRemap).*|Delete(File|Directory).*|GetFile.*|.*FileSystem.*"
)
"""Operators that reach outside the graph: files, Python, other machines, the terminal."""


@dataclass(frozen=True)
class Node:
    """One node: its operator, its name, and the function that holds it ("" for the graph's own)."""

    operator: str
    name: str
    function: str


def check(path: Path, data: bytes) -> None:
    """Refuses a SavedModel that could do more than compute when it is loaded or converted.

    Args:
        data: the bytes of ``saved_model.pb``.

    Raises:
        UnreadableFile: the bytes are no SavedModel.
        UnsupportedLayout: TensorFlow 1's layout, several graphs, or an operator that reaches
            outside the graph, with the node's name.
    """
    try:
        graphs = [v for n, v in _fields(data) if n == META_GRAPHS]
        if len(graphs) != 1:
            raise UnsupportedLayout(path, f"holds {len(graphs)} graphs, expected one")
        objects, graph = _one(graphs[0], OBJECT_GRAPH), _one(graphs[0], GRAPH_DEF)
        if not objects:
            raise UnsupportedLayout(
                path, "saved by TensorFlow 1: load it and save it anew with TensorFlow 2"
            )
        nodes = list(_nodes(graph))
        called = _bodies(graph) | {"": objects}
    except (ValueError, KeyError, IndexError, UnicodeDecodeError):
        raise UnreadableFile(path, "saved_model.pb is damaged or no SavedModel") from None
    for node in nodes:
        if OUTSIDE.fullmatch(node.operator) or _reachable(node, called):
            where = f"node {node.name!r}" + (f" of {node.function!r}" if node.function else "")
            raise UnsupportedLayout(
                path,
                f"operator {printable(node.operator, 60)} ({printable(where, 160)}) reaches "
                "outside the graph: save the model without it; refused",
            )


def _reachable(node: Node, called: dict[str, bytes]) -> bool:
    """Whether a checkpoint operator lies in a function that anything but the saver names.

    ``called`` has each function's bytes by name, and the objects' under "". The graph's own nodes
    are not run when a SavedModel of TensorFlow 2 is loaded.
    """
    if not CHECKPOINT.fullmatch(node.operator) or not node.function:
        return False
    word = node.function.encode()
    return any(word in body for name, body in called.items() if name != node.function)


def _nodes(graph: bytes) -> Iterator[Node]:
    for node in _all(graph, NODES):
        yield _node(node, "")
    for name, body in _bodies(graph).items():
        for node in _all(body, FUNCTION_NODES):
            yield _node(node, name)


def _bodies(graph: bytes) -> dict[str, bytes]:
    """Each function of the graph's library, by name."""
    found: dict[str, bytes] = {}
    for library in _all(graph, LIBRARY):
        for function in _all(library, FUNCTIONS):
            name = dict(_fields(_one(function, SIGNATURE)))[NAME].decode()
            found[name] = found.get(name, b"") + function
    return found


def _node(data: bytes, function: str) -> Node:
    fields = {n: v for n, v in _fields(data) if n in (NAME, OPERATOR)}
    return Node(fields[OPERATOR].decode(), fields[NAME].decode(), function)


def _one(data: bytes, number: int) -> bytes:
    """A message that is there once; where it is repeated, its parts add up, as for TensorFlow."""
    return b"".join(_all(data, number))


def _all(data: bytes, number: int) -> Iterator[bytes]:
    return (v for n, v in _fields(data) if n == number)


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The message's fields of bytes, by number; numbers are passed over.

    Raises:
        ValueError: no protocol buffer.
    """
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError("a field reaches beyond the end")
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number of more than 64 bits")
