"""Which precision a converted model really runs in, read back from the runtime that loaded it."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handlers.runtimes.base import Runtime

HEAVY = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"}
"""OpenVINO's operations whose multiplications make up a network's cost."""

HEAVY_ONNX = {"Conv", "FusedConv", "ConvTranspose", "MatMul", "Gemm", "FusedGemm", "FusedMatMul"}
QUANTISED_ONNX = {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm"}
QUANTISED_ONNX |= {"MatMulIntegerToFloat", "DynamicQuantizeMatMul"}

NAMES = {"i8": "int8", "u8": "int8", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}

ENGINE_NAMES = {"Half": "f16", "Float": "f32", "Int8": "int8", "BFloat16": "bf16", "FP8": "fp8"}
"""TensorRT's names of a layer's weight types."""

PROVEN = {"f32": 1.0, "f16": 0.9, "bf16": 0.9, "int8": 0.8}
"""Least share of the multiplications that must run in the precision asked; those of layers that
int8 leaves in floats on purpose do not count, as long as the rest is most of them."""


def found(runtime: Runtime) -> dict[str, Any]:
    """Shares of the heavy layers and of their multiply-adds by precision, batch 1.

    Returns:
        ``{"label": str, "layers": {"bf16": 0.98, ...}, "flops": {...}}``, shares of 1; "label" is
        what the runtime calls itself. "kept" is the share of the multiply-adds that int8 leaves in
        floats on purpose, where it does (``repack.onnx.float_layers``).
    """
    readers = {
        "openvino": _openvino,
        "onnxruntime": _onnxruntime,
        "torchscript": _torchscript,
        "torchscript-cuda": _torchscript,
        "aotinductor": _aotinductor,
        "tensorrt": _tensorrt,
    }
    layers, flops = readers[runtime.name](runtime)
    found: dict[str, Any] = {
        "label": runtime.precision,
        "layers": _shares(layers),
        "flops": _shares(flops),
    }
    if runtime.name == "tensorrt":
        found["label"] = _main(flops)
        floats = set(runtime.options.float_layers)
        kept = sum(
            n for names, kind, n in _engine_layers(runtime) if kind != "int8" and names & floats
        )
        if kept:
            found["kept"] = round(kept / sum(flops.values()), 4)
    return found


def shortfall(asked: str, report: dict[str, Any]) -> str | None:
    """Why the precision asked is not the one that runs, or None where it is."""
    if asked == "best":
        return None
    share, kept = report["flops"].get(asked, 0.0), report.get("kept", 0.0)
    if report["label"] == asked and share >= PROVEN[asked] * (1 - kept):
        return None
    shown = ", ".join(f"{k} {v:.0%}" for k, v in report["flops"].items()) or "none known"
    purpose = f"; {kept:.0%} left in floats on purpose" if kept else ""
    return f"asked {asked}, found {report['label']} (multiply-adds: {shown}{purpose})"


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = sum(counts.values())
    return {k: round(v / total, 4) for k, v in sorted(counts.items())} if total else {}


def _openvino(runtime: Any) -> tuple[Counter[str], Counter[str]]:
    import openvino as ov

    model = ov.Core().read_model(str(runtime.folder / runtime.artefact.files[0]))
    for port in model.inputs:
        sizes = [d.get_length() if d.is_static else 1 for d in port.partial_shape]
        model.reshape({port.get_any_name(): sizes})
    ran: dict[str, str] = {}
    for node in runtime.compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        kind = str(info["runtimePrecision"].value)
        for name in str(info["originalLayersNames"].value).split(","):
            ran[name] = NAMES.get(kind, kind)
    layers: Counter[str] = Counter()
    flops: Counter[str] = Counter()
    for op in model.get_ops():
        if op.get_type_name() in HEAVY:
            kind = next((ran[n] for n in _merged_names(op) if n in ran), "unknown")
            layers[kind] += 1
            flops[kind] += _multiplies(op)
    return layers, flops


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


def _onnxruntime(runtime: Any) -> tuple[Counter[str], Counter[str]]:
    """From the graph after optimisation, and from the shapes that a profiled run reports."""
    import numpy as np
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as tmp:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(tmp) / "profile")
        options.optimized_model_filepath = str(Path(tmp) / "optimised.onnx")
        path = str(runtime.folder / runtime.artefact.files[0])
        session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
        feed = {
            s.name: np.zeros([n if isinstance(n, int) else 1 for n in s.shape], s.dtype)
            for s in runtime.inputs
        }
        session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        graph = onnx.load(Path(tmp) / "optimised.onnx", load_external_data=False).graph
    sizes = {t.name: list(t.dims) for t in graph.initializer}
    shapes = {
        e["name"].removesuffix("_kernel_time"): e["args"].get("output_type_shape")
        for e in events
        if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")
    }
    layers: Counter[str] = Counter()
    flops: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type not in HEAVY_ONNX | QUANTISED_ONNX:
            continue
        kind = "int8" if node.op_type in QUANTISED_ONNX else "f32"
        output = shapes.get(node.name) or []
        out = math.prod(next(iter(output[0].values()))) if output else 0
        weights = [sizes[i] for i in node.input if len(sizes.get(i, ())) >= 2]
        depth = (
            math.prod(weights[0][1:] if "Conv" in node.op_type else weights[0][:1])
            if weights
            else 1
        )
        layers[kind] += 1
        flops[kind] += out * depth
    return layers, flops


def _main(flops: Counter[str]) -> str:
    """The type that most multiplications run in, "unknown" where none is known."""
    return flops.most_common(1)[0][0] if flops else "unknown"


def _tensorrt(runtime: Any) -> tuple[Counter[str], Counter[str]]:
    layers: Counter[str] = Counter()
    flops: Counter[str] = Counter()
    for _, precision, multiplies in _engine_layers(runtime):
        layers[precision] += 1
        flops[precision] += multiplies
    return layers, flops


def _engine_layers(runtime: Any) -> Iterator[tuple[set[str], str, int]]:
    """From TensorRT's own inspector, of each convolution and product of the fused graph: the names
    of its parts, the type of its weights, its multiplications.

    Those inside a block that it compiled as a whole ("Myelin") are not told.
    """
    kind = runtime.trt.LayerInformationFormat.JSON
    inspector = runtime.engines[-1].create_engine_inspector()
    # Layer names hold control characters, which strict JSON does not allow.
    told = json.loads(inspector.get_engine_information(kind), strict=False)
    for layer in told["Layers"]:
        weights = layer.get("Weights") if isinstance(layer, dict) else None
        if not isinstance(weights, dict) or not weights.get("Count"):
            continue
        kind_of = str(weights["Type"])
        precision = ENGINE_NAMES.get(kind_of, kind_of)
        deconvolution = "Deconvolution" in layer.get("LayerType", "")
        tensor = layer["Inputs" if deconvolution else "Outputs"][0]
        places = math.prod([tensor["Dimensions"][0], *tensor["Dimensions"][2:]])
        parts = set(re.split(r" \+ | \|\| ", layer.get("Name", "")))
        yield parts, precision, places * weights["Count"]


def _aotinductor(runtime: Any) -> tuple[Counter[str], Counter[str]]:
    """From the weights of the program that was compiled: a package does not tell its own types."""
    layers: Counter[str] = Counter()
    flops: Counter[str] = Counter()
    for name, (count, values) in runtime.options.weights.items():
        layers[NAMES.get(name, name)] += count
        flops[NAMES.get(name, name)] += values
    return layers, flops


def _torchscript(runtime: Any) -> tuple[Counter[str], Counter[str]]:
    """TorchScript runs each layer in the type of its weights: counted by their number of values."""
    import torch

    module = torch.jit.load(str(runtime.folder / runtime.artefact.files[0]), "cpu")
    layers: Counter[str] = Counter()
    flops: Counter[str] = Counter()
    constants = [
        node.t("value")
        for node in module.inlined_graph.nodes()
        if node.kind() == "prim::Constant"
        and node.hasAttribute("value")
        and node.kindOf("value") == "t"
    ]
    for value in [*constants, *module.parameters()]:
        if value.dim() >= 2 and value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            kind = NAMES.get(kind, kind)
            layers[kind] += 1
            flops[kind] += value.numel()
    return layers, flops
