"""Detectors of boxes at an angle: a picture in, rectangles out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from handlers.boxes import Boxes
from handlers.detection import BoxesHandler
from handlers.images import Item
from handlers.letterbox import Letterbox
from handlers.rectangles import corners


class OrientedHandler(BoxesHandler[Boxes]):
    """Answers rectangles: "xywhr" (centre, width, height, pixels of the picture; angle, radians,
    clockwise) and their "corners". "box" is the upright one around them, cut at the borders."""

    def result(
        self, found: Boxes, item: Item, place: Letterbox, beside: Mapping[str, NDArray[Any]]
    ) -> Boxes:
        result: Boxes = found.copy()
        result[:, 6] = (result[:, 6] - place.left) / place.scale_x
        result[:, 7] = (result[:, 7] - place.top) / place.scale_y
        result[:, 8:10] /= place.scale_x  # both scales are one: a rectangle stays one
        return result

    def rows(self, result: Boxes) -> Boxes:
        return result

    def detections(self, result: Boxes) -> list[dict[str, Any]]:
        found = super().detections(result)
        for d, row, points in zip(found, result, corners(result[:, 6:]), strict=True):
            *places, angle = row[6:].tolist()
            d["xywhr"] = [*(round(v, 2) for v in places), round(angle, 4)]
            d["corners"] = [[round(x, 2), round(y, 2)] for x, y in points.tolist()]
        return found
