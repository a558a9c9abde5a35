"""Why a form of the model does not run, and which one does, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handlers.errors import KitError
from repack.onnx import nodes as operators

if TYPE_CHECKING:
    from repack.candidates import Candidate, Workshop

MADE_OF_ONNX = ("onnxruntime", "openvino", "tensorrt")
"""Backends whose errors may name a node of the ONNX graph."""


def reason(error: Exception, candidate: Candidate, workshop: Workshop) -> str:
    """The error's last line, with the operator that it names where the form is made of ONNX."""
    if candidate.backend not in MADE_OF_ONNX or isinstance(workshop.onnx, KitError):
        return (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return operators.reason(workshop.onnx, error)


def advice(failed: Candidate, portable: Candidate) -> str:
    """What kept the asked form from running, and the form that does run and passed the gate."""
    return (
        f"{failed.backend} {failed.precision}: {failed.error}; {portable.backend} "
        f"{portable.precision} takes this model and passed the gate: use --backend "
        f"{portable.backend}, or --backend auto to try all"
    )
