"""Poses and landmarks: a picture in, boxes with points out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from handlers.boxes import Boxes
from handlers.detection import BoxesHandler
from handlers.images import Item
from handlers.letterbox import Letterbox

POINT = 3
"""Values of a point: x, y and confidence."""


class PoseHandler(BoxesHandler[Boxes]):
    """Answers boxes, each with its points in pixels of the picture and their confidence 0..1."""

    def result(
        self, found: Boxes, item: Item, place: Letterbox, beside: Mapping[str, NDArray[Any]]
    ) -> Boxes:
        result: Boxes = found.copy()
        points = result[:, 6:].reshape(len(found), self._head.extras // POINT, POINT)
        points[..., 0] = (points[..., 0] - place.left) / place.scale_x
        points[..., 1] = (points[..., 1] - place.top) / place.scale_y
        return result

    def rows(self, result: Boxes) -> Boxes:
        return result

    def detections(self, result: Boxes) -> list[dict[str, Any]]:
        found = super().detections(result)
        for d, row in zip(found, result, strict=True):
            points = row[6:].reshape(-1, POINT).tolist()
            d["points"] = [[round(x, 2), round(y, 2), round(c, 4)] for x, y, c in points]
        return found
