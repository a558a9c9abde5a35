"""The stock design with torch2trt: its ``TRTModule`` in a ``BaseHandler``, one picture at a time.

Pictures are decoded and letterboxed by OpenCV, boxes decoded by PyTorch on the GPU and suppressed
by OpenCV, as the notes on this design do. It travels alone in its archive, with ``engine.json``
(anchors and names) beside it, and uses nothing of the kit.
"""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorrt as trt
import torch
from torch2trt import TRTModule
from ts.torch_handler.base_handler import BaseHandler

SIDE, CONFIDENCE, IOU = 640, 0.25, 0.45


class StockTrtHandler(BaseHandler):  # type: ignore[misc]
    """``BaseHandler``'s four overrides."""

    def initialize(self, context: Any) -> None:
        """Loads the engine."""
        folder = Path(context.system_properties["model_dir"])
        about = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
        self.device = torch.device("cuda", int(context.system_properties.get("gpu_id") or 0))
        torch.cuda.set_device(self.device)
        plan = (folder / context.manifest["model"]["serializedFile"]).read_bytes()
        engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan)
        self.model = TRTModule(engine, ["images"], about["outputs"])
        self.strides = about["strides"]
        self.anchors = [torch.tensor(a, device=self.device) for a in about["anchors"]]
        self.initialized = True

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        """Pictures to ``[N, 3, 640, 640]`` in 0..1, letterboxed; remembers where each one lies."""
        batch, self.places = [], []
        for row in data:
            body = np.frombuffer(row["body" if "body" in row else "data"], np.uint8)
            image = cv2.imdecode(body, cv2.IMREAD_COLOR)
            assert image is not None
            height, width = image.shape[:2]
            scale = min(SIDE / height, SIDE / width)
            size = round(width * scale), round(height * scale)
            left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
            canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
            canvas[top : top + size[1], left : left + size[0]] = cv2.resize(image, size)
            batch.append(np.ascontiguousarray(canvas[:, :, ::-1].transpose(2, 0, 1)))
            self.places.append((scale, left, top))
        return torch.from_numpy(np.stack(batch)).to(self.device).half() / 255

    def inference(self, data: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """All boxes of every picture: ``[N, boxes, 5 + classes]``."""
        found = []
        with torch.inference_mode():
            for i, raw in enumerate(self.model(data)):
                n, _, height, width = raw.shape
                count = len(self.anchors[i])
                y = raw.float().view(n, count, -1, height, width).permute(0, 1, 3, 4, 2).sigmoid()
                rows, columns = torch.meshgrid(
                    torch.arange(height, device=self.device),
                    torch.arange(width, device=self.device),
                    indexing="ij",
                )
                cell = torch.stack((columns, rows), 2).float() - 0.5
                centre = (y[..., 0:2] * 2 + cell) * self.strides[i]
                size = (y[..., 2:4] * 2) ** 2 * self.anchors[i].view(1, count, 1, 1, 2)
                boxes = torch.cat((centre, size, y[..., 4:]), 4)
                found.append(boxes.reshape(n, -1, boxes.shape[-1]))
        return torch.cat(found, 1)

    def postprocess(self, data: torch.Tensor) -> list[Any]:
        """Boxes above the confidence, duplicates suppressed by OpenCV, in the picture's pixels."""
        answers = []
        for prediction, (scale, left, top) in zip(data, self.places, strict=True):
            rows = prediction[prediction[:, 4] > CONFIDENCE].cpu().numpy()
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
