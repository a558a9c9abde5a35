"""Inputs that are places in a table, such as token numbers, and how far the table goes.

A place beyond the end is refused by ONNX Runtime and PyTorch; OpenVINO answers a row of zeros, or
some other row. So the limits go into the passport, and the handler refuses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from onnx import GraphProto
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from repack.inductor_cache import cache_in
from repack.inputs import Limits

SAME = {"Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose"}
"""Operators that keep every value."""


def of_graph(graph: GraphProto) -> Limits:
    """Limits of the inputs by which ``Gather`` reads a constant; it counts from the end, too."""
    sizes = {t.name: tuple(t.dims) for t in graph.initializer}
    source = {i.name: i.name for i in graph.input}
    found: Limits = {}
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            sizes[node.output[0]] = tuple(value.dims)
        elif node.op_type in SAME and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in sizes and node.input[1] in source:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            _add(
                found,
                source[node.input[1]],
                -sizes[node.input[0]][axis],
                sizes[node.input[0]][axis],
            )
    return found


def _add(found: Limits, name: str, low: int, rows: int) -> None:
    before = found.get(name, (low, rows - 1))
    found[name] = max(before[0], low), min(before[1], rows - 1)


class _Watch(TorchDispatchMode):
    """Notes the tables that the given tensors are places in."""

    def __init__(self, given: Mapping[str, Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {value.data_ptr(): name for name, value in given.items()}
        self.found: Limits = {}

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is torch.ops.aten.embedding.default and args[1].data_ptr() in self.names:
            _add(self.found, self.names[args[1].data_ptr()], 0, len(args[0]))
        return function(*args, **(kwargs or {}))


def watched(run: Callable[..., Any], given: Mapping[str, Tensor]) -> tuple[Any, Limits]:
    """What ``run(*given)`` answers, and the limits of the inputs that it looks up embeddings by."""
    if all(value.is_floating_point() for value in given.values()):
        return run(*given.values()), {}
    with tempfile.TemporaryDirectory() as cache, cache_in(cache), _Watch(given) as watch:
        return run(*given.values()), watch.found
