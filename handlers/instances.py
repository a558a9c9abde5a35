"""Instance segmentation of pictures: a picture in, boxes with their masks out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from handlers.accept import chosen
from handlers.boxes import Boxes
from handlers.detection import BoxesHandler
from handlers.errors import Unprocessable
from handlers.images import Item, encode_png
from handlers.letterbox import Letterbox

MOST = 65535
"""Instances that a 16-bit PNG can number."""


class Mask(NamedTuple):
    """One instance's mask, within its box.

    Attributes:
        left, top: of its first pixel in the picture.
        inside: ``[h, w]`` bool.
    """

    left: int
    top: int
    inside: NDArray[np.bool_]


class Instances(NamedTuple):
    """One picture's answer: boxes, a mask for each, and the picture's height and width."""

    boxes: Boxes
    masks: list[Mask]
    size: tuple[int, int]


class InstancesHandler(BoxesHandler[Instances]):
    """Answers boxes, each with its mask on the picture's own pixels.

    JSON has it as run lengths (COCO's, uncompressed: column by column, beginning with pixels
    outside) and as polygons of its outlines; ``Accept: image/png`` gives one 16-bit picture whose
    pixels are 0, or the number of the detection from 1 on, the more confident over the others.
    """

    def result(
        self, found: Boxes, item: Item, place: Letterbox, beside: Mapping[str, NDArray[Any]]
    ) -> Instances:
        protos, size = beside["protos"], (item.height, item.width)
        share = protos.shape[2] / self._fit()[1], protos.shape[1] / self._fit()[0]
        masks = [mask(row[:4], row[6:], protos, place, share, size) for row in found]
        return Instances(found, masks, size)

    def rows(self, result: Instances) -> Boxes:
        return result.boxes

    def detections(self, result: Instances) -> list[dict[str, Any]]:
        found = super().detections(result)
        for d, one in zip(found, result.masks, strict=True):
            d["polygons"] = polygons(one)
            d["mask"] = {"size": list(result.size), "counts": run_lengths(one, *result.size)}
        return found

    def encode(self, item: Item, result: Instances, accept: str) -> tuple[bytes, str]:
        kinds = ("application/json", "image/jpeg", "image/png")
        if chosen(accept, kinds) == "image/png":
            return encode_png(numbered(result.masks, *result.size)), "image/png"
        return super().encode(item, result, accept)


def mask(
    box: NDArray[np.float32],
    weights: NDArray[np.float32],
    protos: NDArray[np.float32],
    place: Letterbox,
    share: tuple[float, float],
    size: tuple[int, int],
) -> Mask:
    """An instance's mask: the weighted prototypes, resampled onto the picture's pixels within the
    box, where they are above 0.

    Args:
        box: x1, y1, x2, y2 in pixels of the picture.
        weights: ``[k]``.
        protos: ``[k, h, w]``.
        share: of the model's input, width and height of the prototypes.
        size: height and width of the picture.
    """
    x1, y1 = (int(v) for v in np.ceil(box[:2]))
    x2, y2 = min(int(np.ceil(box[2])), size[1]), min(int(np.ceil(box[3])), size[0])
    if x2 <= x1 or y2 <= y1:
        return Mask(max(x1, 0), max(y1, 0), np.zeros((0, 0), bool))
    logits = np.tensordot(weights, protos, 1)
    sx, sy = place.scale_x * share[0], place.scale_y * share[1]
    # A pixel's middle lies half a pixel from its edge, in the picture and in the prototypes.
    matrix = np.array(
        [
            [sx, 0, (x1 + 0.5) * sx + place.left * share[0] - 0.5],
            [0, sy, (y1 + 0.5) * sy + place.top * share[1] - 0.5],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    over = cv2.warpAffine(
        logits, matrix, (x2 - x1, y2 - y1), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return Mask(x1, y1, np.asarray(over > 0))


def numbered(masks: Sequence[Mask], height: int, width: int) -> NDArray[np.uint16]:
    """``[height, width]``: 0, or the number of the detection from 1 on.

    Raises:
        Unprocessable: more than 16 bits can number.
    """
    if len(masks) > MOST:
        raise Unprocessable(f"{len(masks):,} instances; a PNG numbers {MOST:,}: ask for JSON")
    found = np.zeros((height, width), np.uint16)
    for number, one in reversed(list(enumerate(masks, 1))):
        h, w = one.inside.shape
        found[one.top : one.top + h, one.left : one.left + w][one.inside] = number
    return found


def run_lengths(one: Mask, height: int, width: int) -> list[int]:
    """COCO's run lengths, uncompressed: column by column, beginning with pixels outside."""
    whole = np.zeros((height, width), bool)
    h, w = one.inside.shape
    whole[one.top : one.top + h, one.left : one.left + w] = one.inside
    flat = whole.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate(([0] if flat.size and flat[0] else [], [0], edges, [flat.size]))
    counts: list[int] = np.diff(ends).astype(int).tolist()
    return counts


def polygons(one: Mask) -> list[list[int]]:
    """Outlines ``[x, y, x, y, ...]`` in pixels of the picture, the outer ones."""
    found, _ = cv2.findContours(
        one.inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE,
        offset=(one.left, one.top),
    )  # fmt: skip
    return [np.asarray(outline).reshape(-1).tolist() for outline in found if len(outline) > 2]
