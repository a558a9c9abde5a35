"""OpenCV's DNN module as a runtime: what a third party brings for the worker."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import RuntimeMissing
from handlers.runtimes.base import Runtime


class OpenCvDnn(Runtime):
    """Runs an ONNX file on the CPU in 32-bit floats."""

    name = "opencv-dnn"

    def activate(self) -> None:
        try:
            import cv2
        except ImportError as e:
            raise RuntimeMissing("cv2", e) from None
        cv2.setNumThreads(self.threads)
        self._net: Any = cv2.dnn.readNetFromONNX(str(self.folder / self.artefact.files[0]))
        self._outputs = list(self._net.getUnconnectedOutLayersNames())
        self.precision = "f32"
        self.warm_up()

    def infer(
        self, inputs: dict[str, NDArray[Any]], every: bool = False
    ) -> dict[str, NDArray[Any]]:
        for name, value in inputs.items():
            self._net.setInput(value, name)
        found = self._net.forward(self._outputs)
        return {n: np.asarray(v) for n, v in zip(self._outputs, found, strict=True)}


class OtherName(OpenCvDnn):
    """Answers for another name than the one that it stands in the table under."""

    name = "someone-else"
