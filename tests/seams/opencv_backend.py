"""OpenCV's DNN module as a backend: what a third party brings for the repack."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING

from handlers.artefact import Artefact, Options
from repack.backends.base import Backend, Found

if TYPE_CHECKING:
    from handlers.runtimes.base import Runtime
    from repack.backends.conversion import Conversion


class OpenCv(Backend):
    """The ONNX file as it is."""

    name = "opencv-dnn"
    title = "OpenCV DNN"
    packages = ("opencv-python-headless",)
    precisions = auto = ("f32",)
    from_onnx = True
    runtime = "opencv_runtime:OpenCvDnn"

    def build(self, given: Conversion, precision: str, via: str, folder: str) -> Artefact:
        file = f"{folder}/model.onnx"
        shutil.copyfile(given.onnx_file(), given.stage / file)
        return Artefact(self.name, (file,), precision, {}, given.onnx_output, Options())

    def found(self, runtime: Runtime) -> Found:
        """Its CPU target computes in the type of the weights, which are 32-bit floats here."""
        import onnx

        found = Found()
        graph = onnx.load(runtime.folder / runtime.artefact.files[0]).graph
        for tensor in graph.initializer:
            if len(tensor.dims) > 1 and tensor.data_type == onnx.TensorProto.FLOAT:
                found.add("f32", math.prod(tensor.dims))
        return found


class Liar(OpenCv):
    """Builds an artefact for another runtime than its own."""

    def build(self, given: Conversion, precision: str, via: str, folder: str) -> Artefact:
        made = super().build(given, precision, via, folder)
        return Artefact("onnxruntime", made.files, precision, {}, made.output, Options())
