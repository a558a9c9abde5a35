"""Detections drawn into their picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

COLOURS = (
    (230, 57, 70),
    (29, 120, 190),
    (42, 157, 100),
    (231, 111, 20),
    (120, 80, 180),
    (190, 150, 10),
    (20, 150, 160),
    (200, 60, 140),
)

LEAST = 0.5
"""Confidence of a point that is drawn."""


def draw(image: NDArray[np.uint8], detections: Sequence[Mapping[str, Any]]) -> NDArray[np.uint8]:
    """A copy of the picture with each box, its class name and its confidence.

    Args:
        image: ``[H, W, 3]`` uint8 RGB.
        detections: as in the JSON answer: "class", "class_id", "confidence", "box" (xyxy, pixels),
            and "polygons", "points" and "corners" where there are some; a rectangle of corners
            takes the place of its box.

    Returns:
        ``[H, W, 3]`` uint8 RGB.
    """
    canvas = image.copy()
    height, width = canvas.shape[:2]
    line = max(1, round((height + width) / 800))
    size = max(0.4, (height + width) / 3200)
    for d in reversed(detections):
        colour = COLOURS[int(d["class_id"]) % len(COLOURS)]
        _tint(canvas, d.get("polygons", ()), colour)
        x1, y1, x2, y2 = (round(v) for v in d["box"])
        if "corners" in d:
            outline = np.round(d["corners"]).astype(np.int32)
            cv2.polylines(canvas, [outline], True, colour, line, cv2.LINE_AA)
        else:
            cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, line, cv2.LINE_AA)
        text = f"{d['class']} {d['confidence']:.2f}"
        (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, line)
        x = min(max(x1, 0), max(width - w - 4, 0))
        y = y1 - base - 2 if y1 - h - base - 4 >= 0 else min(y1 + h + 4, height - base)
        cv2.rectangle(canvas, (x, y - h - 2), (x + w + 4, y + base), colour, -1)
        white = (255, 255, 255)
        cv2.putText(
            canvas, text, (x + 2, y), cv2.FONT_HERSHEY_SIMPLEX, size, white, line, cv2.LINE_AA
        )
        for px, py, confidence in d.get("points", ()):
            if confidence >= LEAST:
                cv2.circle(canvas, (round(px), round(py)), 2 * line + 1, colour, -1, cv2.LINE_AA)
                cv2.circle(canvas, (round(px), round(py)), 2 * line + 1, white, 1, cv2.LINE_AA)
    return np.asarray(canvas)


def _tint(
    canvas: NDArray[np.uint8], outlines: Sequence[Sequence[int]], colour: tuple[int, int, int]
) -> None:
    """Mixes a colour into what lies within the outlines, in place."""
    if not outlines:
        return
    corners = [np.asarray(outline, np.int32).reshape(-1, 2) for outline in outlines]
    x, y, w, h = cv2.boundingRect(np.concatenate(corners))
    part = canvas[y : y + h, x : x + w]
    over = part.copy()
    cv2.fillPoly(over, [c - (x, y) for c in corners], colour)
    cv2.addWeighted(over, 0.45, part, 0.55, 0, part)
