"""ONNX file -> OpenVINO IR, in 32-bit floats, bfloat16 or with int8 layers."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handlers.errors import KitError, RuntimeMissing
from handlers.runtimes import openvino_
from repack.model import Arrays
from repack.onnx import nodes as operators


def lacks(precision: str) -> str | None:
    """Why this machine cannot run a precision in OpenVINO, or None where it can."""
    try:
        return openvino_.lacks(precision)
    except RuntimeMissing as e:
        return str(e)


def convert(source: Path, target: Path, precision: str, calibration: Sequence[Arrays]) -> str:
    """Writes ``target`` (.xml) and its weights beside it (.bin).

    Args:
        precision: "f32", "bf16" (weights stay 32-bit in the file, the CPU runs bfloat16) or "int8"
            (post-training quantisation by NNCF).
        calibration: inputs for int8, at least one.

    Returns:
        The execution type to ask OpenVINO for when the file is loaded.

    Raises:
        KitError: OpenVINO does not take the model, or int8 without calibration inputs.
    """
    import openvino as ov

    try:
        # Not read_model: this merges x * sigmoid(x) into one operation, without which
        # quantisation leaves the sigmoids on their own and int8 is slower than f32.
        model = ov.convert_model(source)
    except Exception as e:  # the front end's own error types are no part of OpenVINO's interface
        reason = operators.reason(source, e)
        raise KitError(f"OpenVINO does not take this model ({reason})") from None
    execution = "f32"
    if precision == "int8":
        model = _quantise(model, calibration)
        execution = "f32" if lacks("bf16") else "bf16"
    elif precision == "bf16":
        execution = "bf16"
    ov.save_model(model, target, compress_to_fp16=False)
    return execution


def _quantise(model: Any, calibration: Sequence[Arrays]) -> Any:
    if not calibration:
        raise KitError("int8 needs pictures or inputs to calibrate on: add --calibration DIR")
    import nncf

    nncf.set_log_level(logging.ERROR)
    tail = nncf.IgnoredScope(patterns=["nms_.*"], validate=False)
    with contextlib.redirect_stdout(sys.stderr):  # NNCF's progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(calibration),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
            ignored_scope=tail,
            fast_bias_correction=True,
        )
