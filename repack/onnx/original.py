"""An ONNX source in ONNX Runtime, whose answers the gate compares with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.errors import KitError
from repack.onnx import nodes
from repack.sources.source import Source


def session(file: str | bytes, source: Source) -> Any:
    """The original in ONNX Runtime, none of its nodes changed.

    Raises:
        KitError: it does not load.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(file, options, ["CPUExecutionProvider"])
    except Exception as e:
        reason = nodes.reason(source.graph, e)
        raise KitError(
            f"{source.path}: ONNX Runtime, whose answers the gate compares with, does not load it "
            f"({reason})"
        ) from None


def run(source: Source, given: Mapping[str, Any], file: bytes) -> None:
    """Asks a file in the source's place; raises what ONNX Runtime raises."""
    session(file, source).run(None, given)
