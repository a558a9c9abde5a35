"""Why no engine was built, as a person can use it."""

from __future__ import annotations

import re
import signal
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


def ended(code: int, err: str) -> str:
    """Why a building process gave no answer, in one line."""
    last = (err.strip().splitlines() or ["nothing was said"])[-1]
    if code == -signal.SIGKILL:
        return (
            "the building process was killed: mostly by the kernel, for want of host memory; "
            "fewer sizes in --batch build side by side with less"
        )
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
    return f"the building process {how} ({last}); too little memory does that, too"
