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
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from onnx import GraphProto

from handlers.errors import KitError
from repack.subjects import Arrays

WIDE = ["LayerNormalization", "Resize", "NonMaxSuppression"]
"""Operators left in 32 bits: sums over whole channels overflow 16."""

QUANTISED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators that run in int8."""

PERCENTILE = 99.999
"""Share of a tensor's values that its int8 range covers, percent. The shipped YOLOv5n lost 0.7
points of mAP50-95 with it, and 1.6 with the whole range (100 held-out scenes, ONNX Runtime)."""

KEPT_AT_OUTPUTS = 2
"""Layers before each output that keep their floats. With 1 the same network lost 0.9 points, with 2
0.3 (300 scenes, every activation of an int8 layer in int8, as TensorRT holds them); with every
layer in int8, whole ranges, it lost 25."""

KEPT_AT_INPUTS = 1
"""The same after each input. With 4 the outputs were a third nearer to the original, but no better:
0.2 points lost instead of 0.3, and 0.2 instead of none by a YOLOv5s, of which they would be 21
instead of 13 % of the multiplications."""

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
    level = logging.getLogger("onnxruntime.transformers.float16").level
    logging.getLogger("onnxruntime.transformers.float16").setLevel(logging.ERROR)
    try:
        model = convert_float_to_float16(
            given, keep_io_types=True, op_block_list=WIDE, disable_shape_infer=False
        )
    finally:
        logging.getLogger("onnxruntime.transformers.float16").setLevel(level)
    onnx.save(model, target)


def quantised(source: Path, target: Path, calibration: Sequence[Arrays]) -> None:
    """QuantizeLinear and DequantizeLinear around convolutions and products, as TensorRT reads them:
    int8, symmetric, weights per channel, ranges from the calibration inputs.

    A range covers all but a hundred-thousandth of a tensor's values: a few far ones would take the
    steps from all others. The layers next to the inputs and the outputs are left as they are, as is
    usual: an error there is not averaged out by any other layer.

    Raises:
        KitError: no calibration inputs.
    """
    from onnxruntime.quantization import QDQQuantizer, QuantType

    found = _collected(source, calibration, list(QUANTISED))
    model = onnx.load(source)
    with _quiet():
        quantizer = QDQQuantizer(
            model,
            True,
            False,
            QuantType.QInt8,
            QuantType.QInt8,
            found,
            [],
            ends(model.graph),
            list(QUANTISED),
            # TensorRT dequantises 8-bit values only; ONNX Runtime's biases would have 32.
            {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(target))


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
            calibrator.collect_data(_reader(given))
        return calibrator.compute_data()


def ends(graph: GraphProto) -> list[str]:
    """The first ``KEPT_AT_INPUTS`` layers after a graph's inputs, and the last ``KEPT_AT_OUTPUTS``
    before its outputs, by the shortest way.

    None where that leaves less than half of the layers.
    """
    layers = {node.name for node in graph.node if node.op_type in QUANTISED}
    inputs = [value.name for value in graph.input]
    outputs = [value.name for value in graph.output]
    forward = [(node.name, node.input, node.output) for node in graph.node]
    back = [(node.name, node.output, node.input) for node in reversed(graph.node)]
    found = _near(inputs, forward, layers, KEPT_AT_INPUTS)
    found |= _near(outputs, back, layers, KEPT_AT_OUTPUTS)
    return sorted(found) if 2 * len(found) <= len(layers) else []


def between(graph: GraphProto, layers: Sequence[str]) -> list[str]:
    """The tensors that lead from these layers to no others than these, or to the graph's outputs.

    An activation's are among them, a sum's if all its inputs are.
    """
    apart = {tensor.name for tensor in graph.initializer}
    behind = set[str]()
    """What these layers give, and what is made of that alone."""
    for node in graph.node:
        fed = [name for name in node.input if name and name not in apart]
        if node.op_type == "Constant":
            apart.update(node.output)
        elif node.name in layers or (
            node.op_type not in QUANTISED and fed and behind.issuperset(fed)
        ):
            behind.update(node.output)
    before = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if node.name in layers or (
            node.op_type not in QUANTISED and not before.isdisjoint(node.output)
        ):
            before.update(node.input)
    return sorted(behind & before)


def _near(
    tensors: Sequence[str],
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    layers: set[str],
    count: int,
) -> set[str]:
    """The layers that fewer than ``count`` others part from these tensors.

    Args:
        nodes: name, tensors on the near side and on the far one, in the order of the way.
    """
    far = dict.fromkeys(tensors, 0)
    """Tensors on the way, and how many layers lie before them."""
    found = set()
    for name, near_side, far_side in nodes:
        steps = min((far[tensor] for tensor in near_side if tensor in far), default=count)
        if steps < count:
            found |= {name} & layers
            for tensor in far_side:
                far[tensor] = min(far.get(tensor, count), steps + (name in layers))
    return found


def _reader(given: Arrays) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._inputs: Iterator[Arrays] = iter([given])

        def get_next(self) -> dict[str, Any] | None:
            return next(self._inputs, None)

    return Reader()


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
