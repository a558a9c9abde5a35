"""ONNX Runtime on the CPU: the ONNX file as it is."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from handlers.artefact import Artefact, OnnxRuntimeOptions
from repack import inputs
from repack.backends.base import Backend, Found, TritonBackend

if TYPE_CHECKING:
    from handlers.runtimes.base import Runtime
    from repack.backends.conversion import Conversion

HEAVY = {"Conv", "FusedConv", "ConvTranspose", "MatMul", "Gemm", "FusedGemm", "FusedMatMul"}
QUANTISED = {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm"}
QUANTISED |= {"MatMulIntegerToFloat", "DynamicQuantizeMatMul"}


class OnnxRuntime(Backend):
    """The ONNX file in 32-bit floats.

    There is no int8: NNCF's ONNX file was tried, and ONNX Runtime's CPU kernels ran every
    convolution in f32 all the same (read back from its optimised graph).
    """

    name = "onnxruntime"
    title = "ONNX Runtime"
    packages = ("onnxruntime",)
    precisions = auto = ("f32",)
    from_onnx = True
    portable = True
    triton = TritonBackend("onnxruntime", "model.onnx", threads="intra_op_thread_count")

    def build(self, given: Conversion, precision: str, via: str, folder: str) -> Artefact:
        import onnx

        file = f"{folder}/model.onnx"
        # Loaded and saved, because weights may lie in files beside the source.
        onnx.save(onnx.load(given.onnx_file()), given.stage / file)
        options = OnnxRuntimeOptions()
        return Artefact(self.name, (file,), precision, {}, given.onnx_output, options)

    def for_triton(
        self, folder: Path, artefact: Artefact, outputs: Sequence[str], target: Path
    ) -> None:
        import onnx
        import onnx.utils

        model = onnx.load(folder / artefact.files[0])
        inputs = [i.name for i in model.graph.input]
        onnx.save(onnx.utils.Extractor(model).extract_model(inputs, list(outputs)), target)

    def found(self, runtime: Runtime) -> Found:
        """From the graph after optimisation, and from the shapes that a profiled run reports."""
        import numpy as np
        import onnx
        import onnxruntime as ort

        from repack.onnx import nodes

        with tempfile.TemporaryDirectory() as tmp:
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 4
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(tmp) / "profile")
            options.optimized_model_filepath = str(Path(tmp) / "optimised.onnx")
            file = onnx.load(runtime.folder / runtime.artefact.files[0])
            nodes.name_all(file.graph)  # the profile knows nodes by their names
            path = str(Path(tmp) / "named.onnx")
            onnx.save(file, path)
            session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
            feed = inputs.made_up(runtime.inputs, np.random.default_rng(0), 1)
            with contextlib.suppress(Exception):  # sizes that the model does not take: see below
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            graph = onnx.load(Path(tmp) / "optimised.onnx", load_external_data=False).graph
        sizes = {t.name: list(t.dims) for t in graph.initializer}
        other: dict[int, str] = {onnx.TensorProto.DOUBLE: "f64", onnx.TensorProto.FLOAT16: "f16"}
        kinds = {t.name: other[t.data_type] for t in graph.initializer if t.data_type in other}
        shapes = {
            e["name"].removesuffix("_kernel_time"): e["args"].get("output_type_shape")
            for e in events
            if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")
        }
        found = Found()
        for node in graph.node:
            if node.op_type not in HEAVY | QUANTISED:
                continue
            own = next((kinds[i] for i in node.input if i in kinds), "f32")
            kind = "int8" if node.op_type in QUANTISED else own
            output = shapes.get(node.name) or []
            out = math.prod(next(iter(output[0].values()))) if output else 0
            weights = [sizes[i] for i in node.input if len(sizes.get(i, ())) >= 2]
            depth = (
                math.prod(weights[0][1:] if "Conv" in node.op_type else weights[0][:1])
                if weights
                else 1
            )
            found.add(kind, out * depth)
        return found.named()
