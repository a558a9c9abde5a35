"""An ONNX graph with its chains and small branches folded into blocks, so that it can be drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

READABLE = 40
"""Blocks that a person can follow; folding goes on until there are no more, where it can."""

MOST = 120
"""Blocks that are still drawn."""

TAIL = "nms_"
"""Names of the nodes that the kit itself puts at a detector's end."""


@dataclass
class Block:
    """Nodes that are drawn as one.

    Attributes:
        nodes: their places in the graph, ascending.
        top: the outermost module that they belong to, empty where unknown.
        before, after: keys of the blocks that feed it and that it feeds.
    """

    nodes: list[int]
    top: str = ""
    before: set[int] = field(default_factory=set)
    after: set[int] = field(default_factory=set)


class Folding:
    """Merges blocks while the graph keeps its shape: no step can close a circle."""

    def __init__(self, blocks: dict[int, Block]):
        self.blocks = blocks

    def until(self, enough: int) -> None:
        """Folds inside modules first, then across them, small blocks before large ones."""
        for alike in (True, False):
            size = 2
            while len(self.blocks) > enough and size < 2 * sum(
                len(b.nodes) for b in self.blocks.values()
            ):
                size *= 2
                while len(self.blocks) > enough and self._pass(size, alike):
                    pass

    def merge(self, keys: set[int]) -> None:
        """Makes one block of several."""
        parts = [self.blocks.pop(k) for k in sorted(keys)]
        key = min(keys)
        tops = {p.top for p in parts}
        one = Block(sorted(n for p in parts for n in p.nodes), tops.pop() if len(tops) == 1 else "")
        one.before = {b for p in parts for b in p.before} - keys
        one.after = {a for p in parts for a in p.after} - keys
        for b in one.before:
            self.blocks[b].after = self.blocks[b].after - keys | {key}
        for a in one.after:
            self.blocks[a].before = self.blocks[a].before - keys | {key}
        self.blocks[key] = one

    def _pass(self, size: int, alike: bool) -> bool:
        changed = False
        for key in sorted(self.blocks):
            if key not in self.blocks or self.blocks[key].nodes[0] < 0:
                continue
            for find in (self._chain, self._branches, self._twins):
                keys = find(key)
                if keys and self._may(keys, size, alike):
                    self.merge(keys)
                    changed = True
                    break
        return changed

    def _may(self, keys: set[int], size: int, alike: bool) -> bool:
        parts = [self.blocks[k] for k in keys]
        if any(p.nodes[0] < 0 for p in parts) or sum(len(p.nodes) for p in parts) > size:
            return False
        return not alike or len({p.top for p in parts}) == 1

    def _chain(self, key: int) -> set[int]:
        """A block and the only one that reads it, which reads nothing else."""
        after = self.blocks[key].after
        if len(after) == 1 and self.blocks[next(iter(after))].before == {key}:
            return {key, *after}
        return set()

    def _branches(self, key: int) -> set[int]:
        """A block, branches of one block each that start in it, and the block where they meet."""
        for end in sorted(self.blocks[key].after):
            inner = self.blocks[key].after - {end}
            closed = all(
                self.blocks[i].before == {key} and self.blocks[i].after == {end} for i in inner
            )
            if inner and closed and self.blocks[end].before == inner | {key}:
                return {key, end, *inner}
        first = self.blocks[next(iter(self.blocks[key].after), key)].after
        if len(first) == 1:
            (end,) = first
            inner = self.blocks[key].after
            closed = all(
                self.blocks[i].before == {key} and self.blocks[i].after == {end} for i in inner
            )
            if closed and self.blocks[end].before == inner:
                return {key, end, *inner}
        return set()

    def _twins(self, key: int) -> set[int]:
        """Two blocks side by side: the same before them and the same after them."""
        mine = self.blocks[key]
        beside = {k for b in mine.before for k in self.blocks[b].after} - {key}
        for other in sorted(beside):
            if self.blocks[other].before == mine.before and self.blocks[other].after == mine.after:
                return {key, other}
        return set()


def of_model(path: Path, scopes: Mapping[str, str]) -> dict[str, Any]:
    """The blocks of an ONNX file.

    Args:
        scopes: module path per node, by the node's first output; may be empty.

    Returns:
        ``{"nodes": int, "blocks": [{"title", "operators": {op: count}, "shape", "nodes", "after":
        [place in this list]}]}``, inputs and outputs among them; or ``{"none": reason}``.
    """
    model = onnx.load(path, load_external_data=False)
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    nodes = [n for n in graph.node if n.op_type != "Constant"]
    folding = Folding(_joined(graph, nodes, scopes))
    tail = {k for k, b in folding.blocks.items() if k >= 0 and nodes[k].name.startswith(TAIL)}
    if len(tail) > 1:
        folding.merge(tail)
    for gate, product in _silu(nodes):
        folding.merge({gate, product})
    folding.until(READABLE)
    if len(folding.blocks) > MOST:
        return {
            "none": f"its {len(nodes):,} nodes fold into {len(folding.blocks)} blocks, "
            f"more than the {MOST} that can be read"
        }
    shapes = _shapes(graph)
    order = sorted(folding.blocks, key=lambda k: (0 if k <= INPUT else 1 if k >= 0 else 2, abs(k)))
    place = {key: i for i, key in enumerate(order)}
    described = _describer(graph, nodes, scopes, shapes)
    return {
        "nodes": len(nodes),
        "blocks": [
            described(folding.blocks[k])
            | {"after": sorted(place[a] for a in folding.blocks[k].after)}
            for k in order
        ],
    }


INPUT, OUTPUT = -1000, -1
"""Keys of the graph's inputs count down from the first, those of its outputs from the second."""


def _joined(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], scopes: Mapping[str, str]
) -> dict[int, Block]:
    """One block a node, input and output."""
    shared = _shared(nodes, scopes)
    weights = {t.name for t in graph.initializer}
    blocks: dict[int, Block] = {}
    maker: dict[str, int] = {}
    for i, value in enumerate(v for v in graph.input if v.name not in weights):
        blocks[INPUT - i] = Block([INPUT - i])
        maker[value.name] = INPUT - i
    for i, node in enumerate(nodes):
        path = scopes.get(node.output[0] if node.output else "", "").split(".")
        blocks[i] = Block([i], ".".join(path[: shared + 1]))
        maker.update(dict.fromkeys(node.output, i))
    for i, node in enumerate(nodes):
        inner = [
            name for a in node.attribute if a.HasField("g") for n in a.g.node for name in n.input
        ]
        for source in {maker[name] for name in [*node.input, *inner] if name in maker} - {i}:
            blocks[source].after.add(i)
            blocks[i].before.add(source)
    for i, value in enumerate(graph.output):
        blocks[OUTPUT - i] = Block([OUTPUT - i], before={maker[value.name]})
        blocks[maker[value.name]].after.add(OUTPUT - i)
    return blocks


def _shared(nodes: list[onnx.NodeProto], scopes: Mapping[str, str]) -> int:
    """How many parts the modules' paths have in common."""
    known = {scopes[n.output[0]] for n in nodes if n.output and n.output[0] in scopes}
    return len(_common([s.split(".") for s in sorted(known) if s]))


def _silu(nodes: list[onnx.NodeProto]) -> list[tuple[int, int]]:
    """Places of Sigmoid and Mul that together are x * sigmoid(x)."""
    gates = {n.output[0]: i for i, n in enumerate(nodes) if n.op_type == "Sigmoid"}
    found = []
    for i, n in enumerate(nodes):
        gate = next((gates[v] for v in n.input if v in gates), None) if n.op_type == "Mul" else None
        if gate is not None and set(n.input) == {nodes[gate].input[0], nodes[gate].output[0]}:
            found.append((gate, i))
            del gates[nodes[gate].output[0]]
    return found


def _describer(
    graph: onnx.GraphProto,
    nodes: list[onnx.NodeProto],
    scopes: Mapping[str, str],
    shapes: Mapping[str, str],
) -> Callable[[Block], dict[str, Any]]:
    weights = {t.name for t in graph.initializer}
    inputs = [v.name for v in graph.input if v.name not in weights]
    outputs = [v.name for v in graph.output]
    shared = _shared(nodes, scopes)
    twice = {i for pair in _silu(nodes) for i in pair}

    def describe(block: Block) -> dict[str, Any]:
        first, last = block.nodes[0], block.nodes[-1]
        if first < 0:
            name = inputs[INPUT - first] if first <= INPUT else outputs[OUTPUT - first]
            kind = "input" if first <= INPUT else "output"
            return {
                "title": name,
                "kind": kind,
                "operators": {},
                "shape": shapes.get(name, ""),
                "nodes": 0,
            }
        ops = Counter(nodes[i].op_type for i in block.nodes if i not in twice)
        ops["SiLU"] += sum(1 for i in block.nodes if i in twice) // 2
        tail = nodes[first].name.startswith(TAIL)
        names = [scopes.get(nodes[i].output[0], "") for i in block.nodes if nodes[i].output]
        return {
            "title": "boxes decoded, duplicates suppressed" if tail else _title(names, shared),
            "kind": "tail" if tail else "block",
            "operators": dict(sorted((+ops).items(), key=lambda item: (-item[1], item[0]))),
            "shape": shapes.get(nodes[last].output[0], "") if nodes[last].output else "",
            "nodes": len(block.nodes),
        }

    return describe


def _title(names: list[str], shared: int) -> str:
    """The module that all nodes belong to, or the first and the last of several.

    Args:
        shared: parts that all paths of the graph begin with; all but the last are left out.
    """
    paths = [n.split(".")[max(shared - 1, 0) :] for n in names if n.count(".") >= shared]
    if not paths:
        return ""
    common = _common(paths)
    if len(common) > min(shared, 1):
        return ".".join(common)
    return f"{'.'.join(paths[0][:2])} to {'.'.join(paths[-1][:2])}"


def _common(paths: list[list[str]]) -> list[str]:
    """The names that all paths begin with."""
    found = []
    for names in zip(*paths, strict=False):
        if len(set(names)) > 1:
            break
        found.append(names[0])
    return found


def _shapes(graph: onnx.GraphProto) -> dict[str, str]:
    found = {}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            axes = value.type.tensor_type.shape.dim
            sizes = [d.dim_param or str(d.dim_value or "any") for d in axes]
            found[value.name] = " x ".join("any" if s.startswith("unk__") else s for s in sizes)
    return found
