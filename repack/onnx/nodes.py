"""Which operator a runtime stumbled over, in words: its type, its node, what feeds it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import count
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto

from handlers import errors
from repack.sources.errors import printable

WORDS = {"And", "Cast", "Constant", "If", "Identity", "Loop", "Max", "Mean", "Min", "Not", "Or"}
WORDS |= {"Range", "Shape", "Size", "Split", "Sum", "Where"}
"""Operators whose names also begin English sentences: they count only in quotes or as a call."""


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model uses."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def describe(path: Path, which: str) -> str:
    """One line about a node: ``operator Det, node '/head/det' (fed by MatMul '/head/matmul')``.

    Args:
        path: the ONNX file; its weights may lie elsewhere and are not read.
        which: a node's name, or an operator's type, of which the first node is meant.
    """
    graph = _graph(path)
    for node in graph.node:
        if which and which == node.name:
            return _line(graph, [node])
    same = [node for node in graph.node if which in (node.op_type, _full(node))]
    return (
        _line(graph, same) if same else f"{printable(which, 80)!r}, which is no node of the graph"
    )


def named_in(path: Path, message: str) -> str | None:
    """``describe`` of the node or operator that a runtime's message names; None if it names none.

    Longer names are looked for first, because one node's name may begin another's.
    """
    graph = _graph(path)
    for node in sorted(graph.node, key=lambda n: -len(n.name)):
        if len(node.name) > 2 and _holds(message, node.name):
            return describe(path, node.name)
    for kind in sorted({n.op_type for n in graph.node}, key=lambda k: -len(k)):
        quoted = re.search(rf"(['\"`]{kind}['\"`])|(\b{kind}\()", message)
        if quoted or (kind not in WORDS and _holds(message, kind)):
            return describe(path, kind)
    return None


def reason(path: Path, error: Exception, again: Callable[[bytes], object] | None = None) -> str:
    """A runtime's error in one line, with the node that it names.

    Args:
        again: does what failed with a file's bytes, where nodes without names are to be told apart.
    """
    last = printable(errors.reason(error))
    named = (again and _nameless(path, again)) or named_in(path, str(error))
    return f"{last}: {named}" if named else last


def _nameless(path: Path, again: Callable[[bytes], object]) -> str | None:
    """The node without a name that fails, found by giving all such nodes one."""
    file = onnx.load(path)
    graph = onnx.GraphProto.FromString(file.graph.SerializeToString())
    for i, node in enumerate(file.graph.node):
        node.name = node.name or f"nameless_{i}"
    try:
        again(file.SerializeToString())
    except Exception as e:  # runtimes raise many types
        found = re.search(r"\bnameless_(\d+)", str(e))
        return _line(graph, [graph.node[int(found[1])]]) if found else None
    return None


def _graph(path: Path) -> GraphProto:
    return onnx.load(path, load_external_data=False).graph


def _holds(message: str, name: str) -> bool:
    """Whether the message has the name, not as a part of a longer one."""
    return bool(re.search(rf"(?<![\w/]){re.escape(name)}(?![\w/])", message))


def _full(node: NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _line(graph: GraphProto, nodes: Sequence[NodeProto]) -> str:
    node = nodes[0]
    makers = {name: n for n in graph.node for name in n.output}
    weights = {t.name for t in graph.initializer}
    feeds = []
    for name in dict.fromkeys(filter(None, node.input)):
        if name in makers:
            feeds.append(f"{makers[name].op_type} {printable(makers[name].name or name, 80)!r}")
        else:
            kind = "weight" if name in weights else "input"
            feeds.append(f"{kind} {printable(name, 80)!r}")
    name = printable(node.name or f"-> {', '.join(node.output)}", 80)
    more = f", and {len(nodes) - 1} more such nodes" if len(nodes) > 1 else ""
    return (
        f"operator {_full(node)}, node {name!r} (fed by {' and '.join(feeds) or 'nothing'}){more}"
    )


def sort(graph: GraphProto) -> bool:
    """Puts nodes behind those that feed them, where they are not, in subgraphs too; a circle stays
    as it is, for the checker to refuse.

    Returns:
        Whether anything was moved.
    """
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    moved = sum(map(sort, inner)) > 0  # each of them, whatever the others gave
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    feeds = {
        i: {makers[name] for name in _reads(node) if name in makers}
        for i, node in enumerate(graph.node)
    }
    if all(maker < i for i, before in feeds.items() for maker in before):
        return moved
    try:
        order = list(TopologicalSorter(feeds).static_order())
    except CycleError:
        return moved
    found = [graph.node[i] for i in order]
    del graph.node[:]
    graph.node.extend(found)
    return True


def _reads(node: NodeProto) -> set[str]:
    """The names that a node reads, its subgraphs' among them."""
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found |= {o.name for o in attribute.g.output}.union(*map(_reads, attribute.g.node))
    return found


def name_all(graph: GraphProto) -> None:
    """Names the nodes that have none, so that TensorRT can be told what to do with each."""
    taken = {node.name for node in graph.node}
    for i, node in enumerate(graph.node):
        if not node.name:
            node.name = next(
                name for k in count() if (name := f"{node.op_type}_{i}{'_' * k}") not in taken
            )
            taken.add(node.name)
