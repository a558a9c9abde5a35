"""One thin module per artefact, named <target>_from_<source>; here, which backend has what."""

from __future__ import annotations

PRECISIONS = {
    "torchscript": ("f32",),
    "onnxruntime": ("f32",),
    "openvino": ("f32", "bf16", "int8"),
}
"""Backends that run without a GPU, and the precisions that each is built in.

ONNX Runtime has no int8 here: NNCF's form of it was tried, and its CPU kernels ran every
convolution in f32 all the same (read back from its optimised graph).
"""
