"""Object detectors: a picture in, boxes with class names out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers import boxes, images
from handlers.base import Handler
from handlers.drawing import draw


@dataclass
class Picture:
    """One decoded picture: ``[H, W, 3]`` uint8 RGB."""

    pixels: NDArray[np.uint8]


class DetectionHandler(Handler[Picture, boxes.Boxes]):
    """Letterboxes pictures into the model's input and returns boxes in the picture's own pixels."""

    def decode(self, data: bytes) -> Picture:
        limit = self.passport.settings.get("max_pixels", images.MAX_PIXELS)
        return Picture(images.decode(data, limit))

    def infer(self, items: Sequence[Picture]) -> Sequence[boxes.Boxes]:
        spec = self.passport.inputs[0]
        with self.stages.measure("preprocess"):
            batch, places = self._preprocess(items)
        with self.stages.measure("infer"):
            output = self.runtime.infer({spec.name: batch})
        with self.stages.measure("postprocess"):
            found = self._found(output, len(items))
            return [
                boxes.to_picture(f, place, item.pixels.shape[1], item.pixels.shape[0])
                for f, place, item in zip(found, places, items, strict=True)
            ]

    def encode(self, item: Picture, result: boxes.Boxes, accept: str) -> tuple[bytes, str]:
        detections = self.detections(result)
        if "image/jpeg" in accept:
            return images.encode_jpeg(draw(item.pixels, detections)), "image/jpeg"
        height, width = item.pixels.shape[:2]
        answer = {
            "model": self.model_info(),
            "runtime": self.runtime_info(),
            "image": {"width": width, "height": height},
            "detections": detections,
        }
        return json.dumps(answer).encode(), "application/json"

    def detections(self, found: boxes.Boxes) -> list[dict[str, Any]]:
        """Boxes as the answer has them, most confident first, coordinates to 0.01 px."""
        labels = self.passport.labels
        return [
            {
                "class": labels[int(row[5])],
                "class_id": int(row[5]),
                "confidence": round(float(row[4]), 4),
                "box": [round(float(v), 2) for v in row[:4]],
            }
            for row in found
        ]

    def _preprocess(self, items: Sequence[Picture]) -> tuple[NDArray[Any], list[images.Letterbox]]:
        spec = self.passport.inputs[0]
        axes = dict(zip(spec.layout, spec.shape, strict=True))
        height, width = int(axes["H"]), int(axes["W"])
        fitted = [images.letterbox(item.pixels, height, width) for item in items]
        batch = np.stack([picture for picture, _ in fitted])
        places = [place for _, place in fitted]
        if spec.dtype == "uint8":
            return batch, places
        scaled = batch.astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)), places

    def _found(self, output: dict[str, NDArray[Any]], items: int) -> list[boxes.Boxes]:
        """Boxes per item, in pixels of the model's input, most confident first."""
        settings = self.passport.settings
        (values,) = output.values()
        if self.artefact.output == "boxes":
            return [
                boxes.nms(v, settings["confidence"], settings["iou"], settings["max_detections"])
                for v in values
            ]
        owner = values[:, 0].astype(np.int64)
        found = []
        for i in range(items):
            mine = values[owner == i, 1:7]
            order = np.argsort(-mine[:, 4], kind="stable")
            found.append(mine[order[: settings["max_detections"]]])
        return found
