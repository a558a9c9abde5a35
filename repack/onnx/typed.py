"""ONNX file in 32-bit floats -> the same in 16 bits (for TensorRT 10 and 11), or with int8 layers.

Strongly typed networks run in the types of the file. ONNX Runtime's own tools write both forms.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from onnx import GraphProto

from handlers.errors import KitError
from repack.model import Arrays
from repack.onnx.float_layers import QUANTISED, between, ends

WIDE = ["LayerNormalization", "Resize", "NonMaxSuppression", "Range"]
"""Operators left in 32 bits: sums over whole channels overflow 16, and TensorRT takes no other
``Range`` of floats."""

PERCENTILE = 99.999
"""Share of a tensor's values that its int8 range covers, percent. The shipped YOLOv5n lost 0.7
points of mAP50-95 with it, and 1.6 with the whole range (100 held-out scenes, ONNX Runtime)."""

HALF_SCALES = 19
"""First operator set whose QuantizeLinear and DequantizeLinear take scales of 16 bits."""


def half(source: Path, target: Path) -> None:
    """16-bit weights and activations; inputs and outputs stay as they are.

    A file with int8 layers is raised to the operator set in which their scales may have 16 bits.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    given = onnx.load(source)
    if any(node.op_type == "DequantizeLinear" for node in given.graph.node):
        given = onnx.version_converter.convert_version(given, HALF_SCALES)
    with _quiet():
        model = convert_float_to_float16(
            given, keep_io_types=True, op_block_list=WIDE, disable_shape_infer=False
        )
    onnx.save(model, target)


def quantised(source: Path, target: Path, calibration: Sequence[Arrays]) -> None:
    """QuantizeLinear and DequantizeLinear around convolutions and products, as TensorRT reads them:
    int8, symmetric, weights per channel, ranges from the calibration inputs.

    A range covers all but a hundred-thousandth of a tensor's values: a few far ones would take the
    steps from all others. The layers next to the inputs and the outputs are left as they are
    (``repack.onnx.float_layers``): an error there is not averaged out by any other layer.

    Raises:
        KitError: no calibration inputs.
    """
    from onnxruntime.quantization import QDQQuantizer, QuantType

    found = _collected(source, calibration, list(QUANTISED))
    model = onnx.load(source)
    floats = ends(model.graph)
    held = between(model.graph, floats)
    with _quiet():
        quantizer = QDQQuantizer(
            model,
            True,
            False,
            QuantType.QInt8,
            QuantType.QInt8,
            found,
            [],
            floats,
            list(QUANTISED),
            # TensorRT dequantises 8-bit values only; ONNX Runtime's biases would have 32.
            {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        quantizer.quantize_model()
        _undo(quantizer.model.model.graph, floats, held)
        quantizer.model.save_model_to_file(str(target))


def _undo(graph: GraphProto, layers: Sequence[str], tensors: Sequence[str]) -> None:
    """Lets these layers, and the nodes that give these tensors, read values as they were.

    ONNX Runtime's tool gives all who read a tensor its rounded values once one of them is in int8.
    """
    giver = {name: node for node in graph.node for name in node.output}
    undone = {}
    for node in graph.node:
        rounding = giver.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if rounding is not None and rounding.op_type == "QuantizeLinear":
            undone[node.output[0]] = rounding.input[0]
    for node in graph.node:
        if node.name in layers or not set(tensors).isdisjoint(node.output):
            node.input[:] = [undone.get(name, name) for name in node.input]


def ranges(source: Path, calibration: Sequence[Arrays]) -> dict[str, float]:
    """The same ranges of every tensor, for TensorRT 8, which is told them: largest value by name.

    Raises:
        KitError: no calibration inputs.
    """
    found = _collected(source, calibration, None).data
    return {
        name: max(abs(float(value)) for value in np.ravel(data.range_value))
        for name, data in found.items()
    }


def _collected(source: Path, calibration: Sequence[Arrays], operators: list[str] | None) -> Any:
    """ONNX Runtime's ranges of the tensors around these operators, or of all."""
    if not calibration:
        raise KitError("int8 needs inputs to calibrate on: add --calibration DIR")
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    with _quiet(), tempfile.TemporaryDirectory(prefix="repack-int8-") as tmp:
        calibrator = create_calibrator(
            str(source),
            operators,
            str(Path(tmp) / "augmented.onnx"),
            CalibrationMethod.Percentile,
            extra_options={"symmetric": True, "percentile": PERCENTILE},
        )
        for given in calibration:  # one by one: it keeps every tensor of what it is given
            calibrator.collect_data(SimpleNamespace(get_next=iter([given, None]).__next__))
        return calibrator.compute_data()


@contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's tools print and log every step; standard output is the archive's path."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
