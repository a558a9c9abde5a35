"""The ONNX graph folded into stages, one a module of the original: what the page draws."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import networkx as nx
import onnx

from repack.onnx import operators

USUAL, MOST = 20, 120
"""Stages that a person takes in, near which the depth of the modules is chosen; and stages that
are still drawn."""

TAIL = "nms_"
"""Names of the nodes that the kit itself puts at a detector's end begin so."""

FLOATS = {
    *(onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE),
    *(onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16),
}


@dataclass
class _Part:
    """An input, a node whose values depend on the inputs, or an output.

    Attributes:
        kind: "input", "stage", "tail" (the kit's own) or "output".
        value: the name of what it gives, or of an output.
        module: path of the module that it was made for; empty where unknown.
        weights: how many values each constant that it reads has, by name.
    """

    kind: str
    name: str
    value: str
    op: str = ""
    module: tuple[str, ...] = ()
    weights: dict[str, int] = field(default_factory=dict)


def of_model(path: Path, scopes: Mapping[str, str]) -> dict[str, Any]:
    """The stages of an ONNX file.

    Args:
        scopes: module path per node, by the node's first output, where the file itself holds none.

    Returns:
        ``{"nodes": int, "weights": values, "operators": {op: count}, "stages": [{"kind", "title",
        "operators", "weights", "shape", "after": [place in this list]}]}``, constants left out;
        ``"none": reason`` in place of stages that are too many. Kinds are those of a part.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    parts, flow = _parts(graph, scopes)
    nodes = [p for p in parts if p.op]
    found = {"nodes": len(nodes), "weights": _weights(nodes), "operators": _counts(nodes)}
    depths = range(1, max((len(p.module) for p in nodes), default=0) + 1)
    folded = [_folded(flow, parts, depth) for depth in depths or [0]]
    best = min(folded, key=lambda stages: abs(math.log(max(len(stages), 1) / USUAL)))
    if len(best) > MOST:
        return {**found, "none": f"{len(best)} stages are more than the {MOST} that can be read"}
    shared = len(_common([p.module for p in nodes if p.module]))
    shapes = _shapes(graph)
    order = list(nx.lexicographical_topological_sort(best, min))
    return {
        **found,
        "stages": [
            {
                **_described([parts[i] for i in stage], max(shared - 1, 0)),
                "shape": shapes.get(parts[stage[-1]].value, ""),
                "after": sorted(order.index(after) for after in best.successors(stage)),
            }
            for stage in order
        ],
    }


def _parts(graph: onnx.GraphProto, scopes: Mapping[str, str]) -> tuple[list[_Part], Any]:
    """Inputs, nodes and outputs, each after what it reads, and which place feeds which."""
    parts: list[_Part] = []
    flow, made = nx.DiGraph(), dict[str, int]()

    def add(part: _Part, feeders: Iterable[int], gives: Iterable[str]) -> None:
        flow.add_node(len(parts))
        flow.add_edges_from((feeder, len(parts)) for feeder in feeders)
        made.update(dict.fromkeys(gives, len(parts)))
        parts.append(part)

    sizes = {t.name: {t.name: math.prod(t.dims)} if _learned(t) else {} for t in graph.initializer}
    for name in (v.name for v in graph.input if v.name not in sizes):
        add(_Part("input", name, name), [], [name])
    for node in graph.node:
        reads = _read(node)
        feeders = [made[name] for name in reads if name in made]
        held = {k: n for name in reads for k, n in sizes.get(name, {}).items()}
        if not feeders:  # a constant, or computed from constants
            for t in (a.t for a in node.attribute if a.HasField("t") and _learned(a.t)):
                held[node.output[0]] = math.prod(t.dims)
            sizes.update(dict.fromkeys(node.output, held))
            continue
        kind = "tail" if node.name.startswith(TAIL) else "stage"
        if kind == "tail" or node.op_type == "Resize":
            held = {}  # tables and factors, nothing learned
        value = node.output[0]
        scope = scopes.get(value, "") or operators.scope(node)
        # What was made outside of any module belongs to the last one that feeds it.
        module = tuple(scope.split(".")) if scope else parts[max(feeders)].module
        part = _Part(kind, node.name or value, value, node.op_type, module, held)
        add(part, feeders, filter(None, node.output))
    for name in (v.name for v in graph.output):
        add(_Part("output", name, name), [made[name]] if name in made else [], [])
    return parts, flow


def _learned(tensor: onnx.TensorProto) -> bool:
    """Whether a constant may be weights: several numbers, and no sizes or places."""
    return bool(tensor.dims) and tensor.data_type in FLOATS


def _read(node: onnx.NodeProto) -> list[str]:
    """What a node reads, inside its branches and loops too."""
    inner = [a.g for a in node.attribute if a.HasField("g")]
    return [*node.input, *(name for g in inner for n in g.node for name in _read(n))]


def _folded(flow: Any, parts: Sequence[_Part], depth: int) -> Any:
    """The flow between stages, each a tuple of places.

    A stage is what the first ``depth`` modules of the paths have in common; without any path, a
    chain of nodes. Stages that feed each other both ways are one.
    """
    chained = nx.DiGraph(
        (a, b)
        for a, b in flow.edges
        if flow.out_degree(a) == flow.in_degree(b) == 1 and parts[a].op and parts[b].op
    )
    chain = {i: min(run) for run in nx.weakly_connected_components(chained) for i in run}
    label: list[Any] = [
        part.kind if part.kind == "tail" else part.module[:depth] or chain.get(i, i)
        for i, part in enumerate(parts)
    ]
    between = nx.DiGraph()
    between.add_nodes_from(label)
    between.add_edges_from((label[a], label[b]) for a, b in flow.edges if label[a] != label[b])
    folded = nx.condensation(between)
    inside: dict[int, list[int]] = {}
    for i, name in enumerate(label):
        inside.setdefault(folded.graph["mapping"][name], []).append(i)
    return nx.relabel_nodes(folded, {key: tuple(places) for key, places in inside.items()})


def _described(stage: Sequence[_Part], skipped: int) -> dict[str, Any]:
    """A stage's entry.

    Args:
        skipped: modules that all paths begin with and the title leaves out.
    """
    paths = [part.module[skipped:] for part in stage if part.module]
    named = [".".join(path) for path in paths] or [part.name for part in stage]
    names = list(dict.fromkeys(named))
    ends = " and ".join(names) if len(names) < 3 else f"{names[0]} to {names[-1]}"
    kind = stage[0].kind
    return {
        "kind": kind,
        "title": "decoding and suppression" if kind == "tail" else ".".join(_common(paths)) or ends,
        "operators": _counts(stage),
        "weights": _weights(stage),
    }


def _common(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """The names that all paths begin with."""
    same = takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False))
    return [names[0] for names in same]


def _weights(parts: Iterable[_Part]) -> int:
    """Values of all weights that are read, each once."""
    return sum({name: n for part in parts for name, n in part.weights.items()}.values())


def _counts(parts: Iterable[_Part]) -> dict[str, int]:
    counts = Counter(p.op for p in parts if p.op)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _shapes(graph: onnx.GraphProto) -> dict[str, str]:
    """Sizes along the axes by the value's name; those that the exporter made up are "any"."""
    given = {d.dim_param for v in graph.input for d in v.type.tensor_type.shape.dim if d.dim_param}
    found = {}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            sizes = [
                d.dim_param or str(d.dim_value or "any") for d in value.type.tensor_type.shape.dim
            ]
            sizes = [s if s.isdigit() or s in given else "any" for s in sizes]
            found[value.name] = " x ".join(sizes)
    return found
