"""OpenVINO on the CPU: the ONNX file as its IR, in f32, bf16 or with int8 layers."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handlers.artefact import Artefact, OpenVinoOptions
from handlers.errors import KitError, RuntimeMissing
from repack import inputs
from repack.backends.base import Backend, Found, TritonBackend, narrowed
from repack.backends.openvino import floats, norms
from repack.backends.openvino.floats import HEAVY
from repack.element_types import NAMES

if TYPE_CHECKING:
    from handlers.runtimes.base import Runtime
    from repack.backends.conversion import Conversion
    from repack.model import Arrays, Model


class OpenVino(Backend):
    """An IR of the ONNX file."""

    name = "openvino"
    title = "OpenVINO"
    packages = ("openvino", "nncf")
    precisions = auto = ("f32", "bf16", "int8")
    from_onnx = True
    triton = TritonBackend(
        "openvino", "model.xml", threads="INFERENCE_NUM_THREADS",
        note="Triton's OpenVINO chooses the element types itself: bf16 where the CPU has it",
    )  # fmt: skip

    def takes(self, model: Model) -> str | None:
        return narrowed(model, self.title)

    def lacks(self, precision: str) -> str | None:
        from handlers.runtimes import openvino_

        try:
            return openvino_.lacks(precision)
        except RuntimeMissing as e:
            return str(e)

    def build(self, given: Conversion, precision: str, via: str, folder: str) -> Artefact:
        files = (f"{folder}/model.xml", f"{folder}/model.bin")
        target = given.stage / files[0]
        execution = convert(given.onnx_file(), target, precision, given.calibration)
        options = OpenVinoOptions(execution_type=execution)
        return Artefact(self.name, files, precision, {}, given.onnx_output, options)

    def for_triton(
        self, folder: Path, artefact: Artefact, outputs: Sequence[str], target: Path
    ) -> None:
        import openvino as ov

        model = ov.Core().read_model(str(folder / artefact.files[0]))
        ends = [model.output(name).get_node() for name in outputs]
        cut = ov.Model(ends, model.get_parameters())
        ov.save_model(cut, str(target), compress_to_fp16=False)

    def found(self, runtime: Runtime) -> Found:
        compiled: Any = getattr(runtime, "compiled")  # noqa: B009
        import openvino as ov

        model = ov.Core().read_model(str(runtime.folder / runtime.artefact.files[0]))
        heavy = [op for op in model.get_ops() if op.get_type_name() in HEAVY]
        made = inputs.made_up(runtime.inputs, np.random.default_rng(0), 1)
        try:
            model.reshape({name: list(value.shape) for name, value in made.items()})
            counts = [_multiplies(op) for op in heavy]
        except RuntimeError:  # sizes that are not known before the model runs: layers count alike
            counts = [1] * len(heavy)
        ran: dict[str, str] = {}
        for node in compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            kind = str(info["runtimePrecision"].value)
            for name in str(info["originalLayersNames"].value).split(","):
                ran[name] = NAMES.get(kind, kind)
        found = Found()
        left = floats.left(model) if runtime.artefact.precision_asked == "int8" else set()
        for op, count in zip(heavy, counts, strict=True):
            kind = next((ran[n] for n in _merged_names(op) if n in ran), "unknown")
            found.add(kind, count)
            if kind != "int8" and op.get_friendly_name() in left:
                found.left += count
        return found


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

    from repack.onnx import nodes

    try:
        # Not read_model: this merges x * sigmoid(x) into one operation, without which
        # quantisation leaves the sigmoids on their own and int8 is slower than f32.
        model = ov.convert_model(source)
    except Exception as e:  # the front end's own error types are no part of OpenVINO's interface
        reason = nodes.reason(source, e)
        raise KitError(f"OpenVINO does not take this model ({reason})") from None
    execution = "f32"
    if precision == "int8":
        model = _quantise(model, calibration)
        execution = "f32" if OpenVino().lacks("bf16") else "bf16"
    elif precision == "bf16":
        execution = "bf16"
    else:
        norms.in_stages(model)
    ov.save_model(model, target, compress_to_fp16=False)
    return execution


def _quantise(model: Any, calibration: Sequence[Arrays]) -> Any:
    if not calibration:
        raise KitError("int8 needs pictures or inputs to calibrate on: add --calibration DIR")
    import nncf

    nncf.set_log_level(logging.ERROR)
    # NNCF would hold what a norm takes in steps of one size for all channels, though the norm makes
    # the smallest of them as large as any.
    ignored = nncf.IgnoredScope(names=sorted(floats.left(model)), types=["MVN"], validate=False)
    with contextlib.redirect_stdout(sys.stderr):  # NNCF's progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(calibration),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
            ignored_scope=ignored,
            fast_bias_correction=True,
        )


def _merged_names(op: Any) -> list[str]:
    """The operation's name, then those that OpenVINO may have merged it into: bias, activation."""
    names = [op.get_friendly_name()]
    for _ in range(3):
        readers = [target.get_node() for target in op.output(0).get_target_inputs()]
        if len(readers) != 1:
            break
        op = readers[0]
        names.append(op.get_friendly_name())
    return names


def _multiplies(op: Any) -> int:
    out = math.prod(op.output(0).shape)
    kind = op.get_type_name()
    left, right = ([int(n) for n in op.input(i).get_shape()] for i in (0, 1))
    if kind == "MatMul":
        return int(out * left[-1])
    if kind == "GroupConvolution":
        return int(out * math.prod(right[2:]))
    if kind == "ConvolutionBackpropData":
        return math.prod(left) * math.prod(right[1:])
    return int(out * math.prod(right[1:]))
