"""Which operators the export turned into which: ATen before, ONNX after.

The exporters note on every ONNX node where it came from; these notes hold folder names of the
machine and are dropped from the archive's file, so the table is made before that and kept beside
the exported file for the report.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

FX_NODE = "pkg.torch.onnx.fx_node"
SCOPES = "pkg.torch.onnx.name_scopes"
RULE = "pkg.onnxscript.rewriter.rule_name"
"""Keys of the newer exporter's notes: the call a node was made for, the modules around it, and the
rule that merged calls into it."""


@dataclass(frozen=True)
class Call:
    """One operator of the module's graph before the export.

    Attributes:
        key: what the ONNX nodes made for it carry too; several calls may share one.
        op: for example "aten::conv2d".
        readers: keys of the calls that take its result.
    """

    key: str
    op: str
    readers: tuple[str, ...] = ()


def exported_calls(program: Any) -> list[Call]:
    """The calls of a ``torch.export.ExportedProgram``; a tuple's unpacking is no call."""
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    return [
        Call(n.name, _op_name(n.target), tuple(sorted(_readers(n)))) for n in nodes if not _item(n)
    ]


def scripted_calls(module: Any) -> list[Call]:
    """The ATen calls of a TorchScript module, those inside branches and loops too.

    Their key is the place in the module's code that made them.
    """
    found: list[Call] = []
    graph = module.inlined_graph  # made anew at every call; its parts live as long as it does
    blocks = [graph]
    while blocks:
        for node in blocks.pop(0).nodes():
            blocks += node.blocks()
            if node.kind().startswith("aten::"):
                found.append(Call(node.sourceRange(), node.kind()))
    return found


def table(calls: Sequence[Call], model: onnx.ModelProto, exporter: str) -> dict[str, Any]:
    """The operators before and after, and what became of each as far as the notes say.

    Args:
        model: as the exporter wrote it, notes included.
        exporter: its name for the reader.

    Returns:
        ``{"exporter": str, "before": {op: count}, "after": {op: count}, "rows": [...], "scopes":
        {first output of a node: module path}}``; a row is ``{"before": [op, ...], "after": [op,
        ...], "kind": str, "count": int}``. Constants are left out.
    """
    nodes = [n for n in model.graph.node if n.op_type != "Constant"]
    made: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        made[_key(node)].append(node)
    groups: dict[str, list[str]] = defaultdict(list)
    for call in calls:
        groups[_owner(call, made)].append(call.op)
    rows: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter()
    for key, ops in groups.items():
        rows.update(_split(ops, [n.op_type for n in made.get(key, [])]))
    for key in made.keys() - groups.keys():
        rows.update(((), (node.op_type,)) for node in made[key])
    return {
        "exporter": exporter,
        "before": _counts(c.op for c in calls),
        "after": _counts(n.op_type for n in nodes),
        "rows": [
            {"before": list(b), "after": list(a), "kind": _kind(b, a), "count": n}
            for (b, a), n in sorted(rows.items(), key=lambda item: (-item[1], item[0]))
        ],
        "scopes": {n.output[0]: s for n in nodes if n.output and (s := scope(n))},
    }


def save(found: dict[str, Any], exported: Path) -> None:
    """Writes the table beside the exported file."""
    _beside(exported).write_text(json.dumps(found), encoding="utf-8")


def read(exported: Path) -> dict[str, Any] | None:
    """The table that lies beside an exported file; None where there is none."""
    path = _beside(exported)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _beside(exported: Path) -> Path:
    return exported.with_name("operators.json")


def _op_name(target: Any) -> str:
    name = str(getattr(target, "_name", "")) or getattr(target, "__name__", str(target))
    return name.rsplit(".", 1)[0] if "::" in name else name


def _item(node: Any) -> bool:
    return getattr(node.target, "__name__", "") == "getitem"


def _readers(node: Any) -> set[str]:
    found: set[str] = set()
    for user in node.users:
        found |= _readers(user) if _item(user) else {user.name}
    return found


def _notes(node: onnx.NodeProto) -> dict[str, str]:
    return {p.key: p.value for p in node.metadata_props}


def _key(node: onnx.NodeProto) -> str:
    call = re.match(r"%(\S+) :", _notes(node).get(FX_NODE, ""))
    return call[1] if call else node.doc_string


def scope(node: onnx.NodeProto) -> str:
    """The path of the module that a node was made for, such as "model.4.cv1"."""
    given = _notes(node).get(SCOPES)
    if given is None:
        return ".".join(node.name.strip("/").split("/")[:-1])
    names = ast.literal_eval(given)
    return str(names[-2]) if len(names) > 1 else ""


def _owner(call: Call, made: dict[str, list[onnx.NodeProto]]) -> str:
    """The call's own key, or its only reader's where a rule merged it into that one's node."""
    if call.key not in made and len(call.readers) == 1:
        (reader,) = call.readers
        if any(RULE in _notes(node) for node in made.get(reader, [])):
            return reader
    return call.key


def _split(before: list[str], after: list[str]) -> Counter[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Like calls that share a place in the code count one by one, where their nodes divide."""
    times = len(before)
    counts = Counter(after)
    if len(set(before)) == 1 and all(n % times == 0 for n in counts.values()):
        each = [op for op, n in counts.items() for _ in range(n // times)]
        return Counter({(tuple(before[:1]), tuple(each)): times})
    return Counter({(tuple(before), tuple(after)): 1})


def _kind(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    if not before:
        return "origin not recorded"
    if not after:
        return "no node of its own"
    sides = ["one" if len(side) == 1 else "many" for side in (before, after)]
    return "-to-".join(sides)


def _counts(ops: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(ops).items(), key=lambda item: (-item[1], item[0])))
