"""Object detectors: a picture in, boxes with class names out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handlers import boxes, images
from handlers.base import Handler
from handlers.drawing import draw


class Item(NamedTuple):
    """One request's picture, decoded as large as the model needs it, and its file's bytes."""

    picture: images.Picture
    data: bytes


class DetectionHandler(Handler[Item, boxes.Boxes]):
    """Letterboxes pictures into the model's input and returns boxes in the picture's own pixels."""

    def decode(self, data: bytes) -> Item:
        return Item(images.decode_to_fit(data, self._fit()), data)

    def infer(self, items: Sequence[Item]) -> Sequence[boxes.Boxes]:
        spec = self.passport.inputs[0]
        with self.stages.measure("preprocess"):
            batch, places = self._preprocess(items)
        with self.stages.measure("infer"):
            output = self.runtime.infer({spec.name: batch})
        with self.stages.measure("postprocess"):
            found = self._found(output, len(items))
            return [
                boxes.to_picture(f, place, item.picture.width, item.picture.height)
                for f, place, item in zip(found, places, items, strict=True)
            ]

    def encode(self, item: Item, result: boxes.Boxes, accept: str) -> tuple[bytes, str]:
        detections = self.detections(result)
        if "image/jpeg" in accept:
            whole = images.decode(item.data)
            return images.encode_jpeg(draw(whole, detections)), "image/jpeg"
        _, height, width = item.picture
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

    def _fit(self) -> tuple[int, int]:
        """Height and width of the model's input, pixels."""
        spec = self.passport.inputs[0]
        axes = dict(zip(spec.layout, spec.shape, strict=True))
        return int(axes["H"]), int(axes["W"])

    def _preprocess(self, items: Sequence[Item]) -> tuple[NDArray[Any], list[images.Letterbox]]:
        spec = self.passport.inputs[0]
        fitted = [
            images.letterbox(p.pixels, *self._fit(), size=(p.height, p.width)) for p, _ in items
        ]
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
