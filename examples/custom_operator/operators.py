"""How the operators of ``network.py`` are written in ONNX, for ``--symbolic``.

``asinh`` is PyTorch's own, but its older exporter, which takes TorchScript files, does not know it.
``soft_clip`` neither exporter can know.
"""

from __future__ import annotations

from typing import Any

import examples.custom_operator.network  # noqa: F401  (a TorchScript file needs it to be defined)


def soft_clip(op: Any, x: Any, limit: float) -> Any:
    return op.Mul(op.Tanh(op.Div(x, limit)), limit)


def asinh(op: Any, x: Any) -> Any:
    return op.Asinh(x)


SYMBOLIC = {"kit_example::soft_clip": soft_clip, "aten::asinh": asinh}
