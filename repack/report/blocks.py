"""An ONNX graph with its chains and small branches folded into blocks, so that it can be drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

from repack.report.folding import Block, Folding

READABLE = 40
"""Blocks that a person can follow; folding goes on until there are no more, where it can."""

MOST = 120
"""Blocks that are still drawn."""

TAIL = "nms_"
"""Names of the nodes that the kit itself puts at a detector's end."""


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
    nodes = _computed(graph)
    folding = Folding(_joined(graph, nodes, scopes))
    tail = {k for k, b in folding.blocks.items() if k >= 0 and nodes[k].name.startswith(TAIL)}
    if len(tail) > 1:
        folding.merge(tail)
    for gate, product in _silu(nodes):
        folding.merge({gate, product})
    folding.modules()
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


def _computed(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes whose values depend on the graph's inputs."""
    weights = {t.name for t in graph.initializer}
    known = {v.name for v in graph.input} - weights
    found = []
    for node in graph.node:
        if known.intersection(_read(node)):
            known.update(node.output)
            found.append(node)
    return found


def _read(node: onnx.NodeProto) -> list[str]:
    """What a node reads, inside its branches and loops too."""
    inner = [a.g for a in node.attribute if a.HasField("g")]
    return [*node.input, *(name for g in inner for n in g.node for name in _read(n))]


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
        module = scopes.get(node.output[0] if node.output else "", "")
        path = module.split(".")
        # Nodes of the outermost module itself have nothing else in common.
        blocks[i] = Block([i], ".".join(path[: shared + 1]), module if path[shared:] else "")
        maker.update(dict.fromkeys(node.output, i))
    for i, node in enumerate(nodes):
        for source in {maker[name] for name in _read(node) if name in maker} - {i}:
            blocks[source].after.add(i)
            blocks[i].before.add(source)
    for i, value in enumerate(graph.output):
        blocks[OUTPUT - i] = Block([OUTPUT - i])
        if value.name in maker:
            blocks[OUTPUT - i].before.add(maker[value.name])
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
        first = block.nodes[0]
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
            "title": "decoding and suppression" if tail else _title(names, shared),
            "kind": "tail" if tail else "block",
            "operators": dict(sorted((+ops).items(), key=lambda item: (-item[1], item[0]))),
            "shape": shapes.get(_leaving(block, nodes, outputs), ""),
            "nodes": len(block.nodes),
        }

    return describe


def _leaving(block: Block, nodes: list[onnx.NodeProto], outputs: list[str]) -> str:
    """The last of the block's values that something outside it reads."""
    inside = set(block.nodes)
    outside = {v for i, n in enumerate(nodes) if i not in inside for v in _read(n)} | set(outputs)
    made = [v for i in block.nodes for v in nodes[i].output if v in outside]
    return made[-1] if made else ""


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
    given = {d.dim_param for v in graph.input for d in v.type.tensor_type.shape.dim if d.dim_param}
    found = {}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            axes = value.type.tensor_type.shape.dim
            sizes = [d.dim_param or str(d.dim_value or "any") for d in axes]
            # Names that the exporter made up say nothing to a reader.
            sizes = [s if s.isdigit() or s in given else "any" for s in sizes]
            found[value.name] = " x ".join(sizes)
    return found
