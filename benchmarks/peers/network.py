"""The network as a user has it who packs nothing: an ONNX file, OpenCV and ONNX Runtime."""

from __future__ import annotations

import os

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

SIDE = 640


class Network:
    """``$MODEL`` with ``$THREADS`` threads (0: as many as ONNX Runtime itself takes)."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], options)
        self._input = self._session.get_inputs()[0].name

    def boxes(self, picture: NDArray[np.uint8]) -> list[list[float]]:
        """x1, y1, x2, y2 (pixels of the picture), confidence and class of each box.

        Args:
            picture: RGB, ``[height, width, 3]``.
        """
        height, width = picture.shape[:2]
        scale = SIDE / max(height, width)
        size = round(width * scale), round(height * scale)
        left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
        canvas = np.full((1, SIDE, SIDE, 3), 114, np.uint8)
        canvas[0, top : top + size[1], left : left + size[0]] = cv2.resize(picture, size)
        (found,) = self._session.run(["detections"], {self._input: canvas})
        rows = found[:, 1:].astype(float)  # the first column is the picture's number
        rows[:, :4] = (rows[:, :4] - [left, top, left, top]) / scale
        return rows.tolist()  # type: ignore[no-any-return]
