"""What TensorRT is told of int8: the file of ranges and types for 8, or that it is to calibrate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from handlers.engines import versions
from repack.model import Arrays
from repack.onnx import float_layers as kept_floats
from repack.onnx import typed as typed_onnx

if TYPE_CHECKING:
    from repack.backends.tensorrt.engines import Plan

RANGES = "engine-int8.json"
"""That file's name."""


def ranges_file(plan: Plan, source: Path, work: Path, dialect: versions.Dialect) -> Path | None:
    """The file of int8 ranges that TensorRT 8 is given, where it does not look for them itself."""
    if plan.precision != "int8" or dialect.typed or by_calibrator(plan, dialect):
        return None
    target = work / RANGES
    if not target.is_file():
        write_ranges(plan, source, target)
    return target


def write_ranges(plan: Plan, source: Path, target: Path) -> None:
    """Writes the int8 ranges of an ONNX file, as ``handlers.engines.versions.Int8`` reads."""
    graph = onnx.load(source).graph
    ranges, floats = typed_onnx.ranges(source, fed(plan)), kept_floats.ends(graph)
    between = [name for name in kept_floats.between(graph, floats) if name in ranges]
    found = {"ranges": ranges, "floats": floats, "between": between}
    target.write_text(json.dumps(found), encoding="utf-8")


def fed(plan: Plan) -> list[Arrays]:
    """The calibration inputs as the module takes them."""
    return [plan.form.feed(given) for given in plan.calibration]


def by_calibrator(plan: Plan, dialect: versions.Dialect) -> bool:
    """Whether TensorRT itself looks for int8 ranges: 8's calibrator, where no file holds them."""
    asked = plan.precision == "best" or (plan.precision == "int8" and plan.via == "torch2trt")
    return bool(asked and plan.calibration and not dialect.typed)
