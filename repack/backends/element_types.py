"""The kit's names of element types, by the names of OpenVINO, PyTorch and TensorRT."""

from __future__ import annotations

NAMES = {
    "i8": "int8",
    "u8": "int8",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "Half": "f16",
    "Float": "f32",
    "Int8": "int8",
    "BFloat16": "bf16",
    "FP8": "fp8",
}
