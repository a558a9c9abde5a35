"""ONNX file in 32-bit floats -> the same in 16 bits, or with int8 layers, for TensorRT 10 and 11.

Strongly typed networks run in the types of the file. ONNX Runtime's own tools write both forms.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter

from handlers.errors import KitError
from repack.subjects import Arrays

WIDE = ["LayerNormalization", "Resize", "NonMaxSuppression"]
"""Operators left in 32 bits: sums over whole channels overflow 16."""

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

    Raises:
        KitError: no calibration inputs.
    """
    if not calibration:
        raise KitError("int8 needs inputs to calibrate on: add --calibration DIR")
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._inputs: Iterator[Arrays] = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._inputs, None)

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "ConvTranspose", "MatMul", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Entropy,
            # TensorRT dequantises 8-bit values only; ONNX Runtime's biases would have 32.
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
            },
        )
    finally:
        root.setLevel(level)
