"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from handlers.artefact import OnnxRuntimeOptions
from handlers.errors import RuntimeMissing
from handlers.runtimes.base import Runtime


class OnnxRuntime(Runtime):
    """Runs an ONNX file."""

    name = "onnxruntime"
    options_type = OnnxRuntimeOptions

    def activate(self) -> None:
        try:
            import onnxruntime as ort
        except ImportError as e:
            raise RuntimeMissing("onnxruntime", e) from None
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        path = str(self.folder / self.artefact.files[0])
        self._session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._wanted = self.wanted(self._outputs)
        self.warm_up()

    def infer(
        self, inputs: dict[str, NDArray[Any]], every: bool = False
    ) -> dict[str, NDArray[Any]]:
        names = self._outputs if every else self._wanted
        return dict(zip(names, self._session.run(names, inputs), strict=True))
