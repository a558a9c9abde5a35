"""The stock TorchServe design that the kit is measured against: TorchScript, one picture at a time.

Written the way TorchServe's own examples are: ``BaseHandler``, OpenCV in Python, TorchServe's and
PyTorch's defaults. It travels alone in its archive and uses nothing of the kit.
"""

from typing import Any

import cv2
import numpy as np
import torch
from ts.torch_handler.base_handler import BaseHandler

SIDE, CONFIDENCE, IOU = 640, 0.25, 0.45


class StockHandler(BaseHandler):  # type: ignore[misc]
    """``BaseHandler`` loads the TorchScript file; these are its three overrides."""

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        """Pictures to ``[N, 640, 640, 3]`` uint8, letterboxed; remembers where each one lies."""
        batch, self.places = [], []
        for row in data:
            body = np.frombuffer(row["body" if "body" in row else "data"], np.uint8)
            image = cv2.imdecode(body, cv2.IMREAD_COLOR_RGB)
            assert image is not None
            height, width = image.shape[:2]
            scale = min(SIDE / height, SIDE / width)
            size = round(width * scale), round(height * scale)
            left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
            canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
            canvas[top : top + size[1], left : left + size[0]] = cv2.resize(image, size)
            batch.append(torch.from_numpy(canvas))
            self.places.append((scale, left, top))
        return torch.stack(batch).to(self.device)

    def postprocess(self, data: torch.Tensor) -> list[Any]:
        """Boxes above the confidence, duplicates suppressed by OpenCV, in the picture's pixels."""
        answers = []
        for prediction, (scale, left, top) in zip(data.cpu().numpy(), self.places, strict=True):
            rows = prediction[prediction[:, 4] > CONFIDENCE]
            scores = rows[:, 5:] * rows[:, 4:5]
            kinds = scores.argmax(1) if len(rows) else np.zeros(0, int)
            best = scores.max(1) if len(rows) else np.zeros(0)
            corners = rows[:, :2] - rows[:, 2:4] / 2 - (left, top)
            boxes = np.concatenate((corners, rows[:, 2:4]), 1) / scale
            kept = cv2.dnn.NMSBoxesBatched(
                boxes.tolist(), best.tolist(), kinds.tolist(), CONFIDENCE, IOU
            )
            answers.append(
                [
                    {
                        "class": int(kinds[i]),
                        "confidence": float(best[i]),
                        "box": [*boxes[i, :2].tolist(), *(boxes[i, :2] + boxes[i, 2:]).tolist()],
                    }
                    for i in np.asarray(kept, int).reshape(-1)
                ]
            )
        return answers
