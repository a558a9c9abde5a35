"""Why no engine was built, as a person can use it."""

from __future__ import annotations

import re
from pathlib import Path

import onnx

from repack.onnx import nodes as operators


def with_node(source: Path, reason: str) -> str:
    """The reason, and the node that it names: by its number ("node 3:") or by its name."""
    numbered = re.search(r"\bnode (\d+):", reason)
    nodes = onnx.load(source, load_external_data=False).graph.node
    if numbered and int(numbered[1]) < len(nodes):
        node = nodes[int(numbered[1])]
        return f"{reason}: {operators.describe(source, node.name or node.op_type)}"
    named = operators.named_in(source, reason)
    return f"{reason}: {named}" if named else reason
