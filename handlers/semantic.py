"""Semantic segmentation of pictures: a picture in, the class of each of its pixels out."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handlers import batches, images
from handlers.accept import chosen
from handlers.base import Handler, require_sendable
from handlers.errors import Unprocessable
from handlers.images import Item
from handlers.letterbox import Letterbox
from handlers.passport import Passport
from handlers.runtimes import Loaded

LabelMap = NDArray[np.uint8 | np.uint16]
"""``[height, width]``: the class of each pixel; 16 bits above 255 classes."""

BAND = 2**18
"""Pixels of the picture whose scores are enlarged at once: what is held beside the label map stays
small, whatever the picture and however many the classes."""

RUN_BYTES = 6
"""What a change of class along a column takes at least in JSON: "1, " in two classes."""

LEGEND = 12
"""Classes named in a drawn picture, those of the largest areas."""


class SemanticHandler(Handler[Item, LabelMap]):
    """Answers the class of each of a picture's own pixels.

    JSON has each class that is there: its area, and its pixels as run lengths (COCO's,
    uncompressed); ``Accept: image/png`` gives the label map, whose pixels are the classes' numbers,
    ``image/jpeg`` the picture with it drawn.

    Settings in the passport: ``resize_mode`` (``handlers.images.MODES``) and ``threshold``, above
    which the score of a network's only class counts; None where the best of several does.
    """

    def __init__(self, passport: Passport, loaded: Loaded, threads: int = 1):
        super().__init__(passport, loaded, threads)
        self._mode = passport.settings["resize_mode"]
        _, height, width, _ = passport.inputs[0].shape
        self._fit = int(height), int(width)

    def decode(self, data: bytes) -> Item:
        picture = images.decode_to_fit(data, self._fit, cover=self._mode == "stretch")
        return Item(picture.height, picture.width, picture, data)

    def infer(self, items: Sequence[Item]) -> Sequence[LabelMap]:
        spec = self.passport.inputs[0]
        with self.stages.measure("preprocess"):
            fitted = [
                images.letterbox(
                    item.picture.pixels, *self._fit, (item.height, item.width), self._mode
                )
                for item in items
                if item.picture is not None
            ]
            pixels = np.stack([picture for picture, _ in fitted])
        found: list[LabelMap] = []
        for part, count in batches.of(spec, pixels):
            with self.stages.measure("infer"):
                (values,) = self.runtime.infer({spec.name: part}).values()
            with self.stages.measure("postprocess"):
                for each in values[:count]:
                    item, place = items[len(found)], fitted[len(found)][1]
                    found.append(self._label_map(each, item, place))
        return found

    def _label_map(self, values: NDArray[Any], item: Item, place: Letterbox) -> LabelMap:
        size, known = (item.height, item.width), len(self.passport.labels)
        return label_map(values, known, self.passport.settings["threshold"], place, self._fit, size)

    def encode(self, item: Item, result: LabelMap, accept: str) -> tuple[bytes, str]:
        kind = chosen(accept, ("application/json", "image/jpeg", "image/png"))
        if kind == "image/png":
            return images.encode_png(result), kind
        if kind == "image/jpeg":
            whole = images.decode(item.data)
            return images.encode_jpeg(draw(whole, result, self.passport.labels)), kind
        answer = {
            "model": self.model_info(),
            "runtime": self.runtime_info(),
            "image": {"width": item.width, "height": item.height},
            "classes": classes(result, self.passport.labels),
        }
        return json.dumps(answer).encode(), kind


def label_map(
    values: NDArray[Any],
    known: int,
    threshold: float | None,
    place: Letterbox,
    fit: tuple[int, int],
    size: tuple[int, int],
) -> LabelMap:
    """The class of each of a picture's pixels.

    Scores are enlarged bilinearly to the picture's own pixels before the best is chosen; of numbers
    of classes the nearest is taken.

    Args:
        values: the network's answer for the model's input: scores ``[classes, h, w]`` of floats,
            or numbers of classes ``[h, w]``.
        known: how many classes there are.
        threshold: as the handler's setting; the class of its scores is 1, all else 0.
        place: where the picture lies in the model's input.
        fit: height and width of that input.
        size: of the picture.

    Raises:
        Unprocessable: scores that are not finite, or a class beyond those that are known.
    """
    h, w = values.shape[-2:]
    scale = place.scale_x * w / fit[1], place.scale_y * h / fit[0]
    left, top = place.left * w / fit[1], place.top * h / fit[0]
    kind = np.uint8 if known <= 255 else np.uint16
    if values.ndim == 2:
        if values.min() < 0 or values.max() >= known:
            raise Unprocessable(
                f"the model answered classes {values.min()} to {values.max()} for this picture; it "
                f"was packed with {known}, 0 to {known - 1}"
            )
        ys, xs = (
            ((np.arange(n) + 0.5) * s + first).astype(int).clip(0, most - 1)
            for n, s, first, most in zip(size, scale[::-1], (top, left), (h, w), strict=True)
        )
        return np.asarray(values.astype(kind)[ys][:, xs])
    if not np.isfinite(values).all():
        raise Unprocessable("the model answered NaN or infinity for this picture")
    scores = values.astype(np.float32, copy=False)
    if threshold is not None:
        scores = np.concatenate([np.full_like(scores, threshold), scores])
    found = np.empty(size, kind)
    rows = max(1, BAND // size[1])
    for first in range(0, size[0], rows):
        band = found[first : first + rows]
        # A pixel's middle lies half a pixel from its edge, in the picture and in the scores.
        across, down = 0.5 * scale[0] + left - 0.5, (first + 0.5) * scale[1] + top - 0.5
        matrix = np.array([[scale[0], 0, across], [0, scale[1], down]])
        low, high = (int(down + n * scale[1]) for n in (0, len(band)))
        _best(scores, scores[:, max(low - 1, 0) : high + 3], matrix, band)
    return found


def _best(
    scores: NDArray[np.float32],
    near: NDArray[np.float32],
    matrix: NDArray[np.float64],
    found: NDArray[Any],
) -> None:
    """Fills in the class of the best score of each pixel, the first of equal ones.

    Args:
        scores: ``[classes, h, w]``.
        near: those rows of them that the pixels lie between.
        matrix: from a pixel's place to that of its score.
        found: ``[rows, width]``.
    """
    height, width = found.shape
    flags, border = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
    most = near.max((1, 2))
    best = np.full((height, width), -np.inf, np.float32)
    found[:] = 0
    for number in np.argsort(-most, kind="stable").tolist():
        if most[number] < best.min():
            break  # enlarging makes nothing larger: no other class is the best anywhere here
        over = cv2.warpAffine(
            scores[number], matrix, (width, height), flags=flags, borderMode=border
        )
        better = (over > best) | ((over == best) & (number < found))
        np.copyto(best, over, where=better)
        np.copyto(found, number, where=better, casting="unsafe")


def areas(found: LabelMap, known: int) -> NDArray[np.int64]:
    """How many pixels each class has, ``[known]``."""
    rows = max(1, BAND // max(found.shape[1], 1))
    parts = (found[i : i + rows].reshape(-1) for i in range(0, len(found), rows))
    counted: NDArray[np.int64] = np.zeros(known, np.int64)
    for part in parts:
        counted += np.bincount(part, minlength=known)
    return counted


def classes(found: LabelMap, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The classes that are there as the answer has them, the largest first.

    Raises:
        TooLarge: a label map so ragged that the server cannot send its run lengths.
    """
    flat = found.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    require_sendable(RUN_BYTES * len(edges), "or more ")
    starts = np.concatenate(([0], edges))
    values, counted = flat[starts], areas(found, len(labels))
    return [
        {
            "class": labels[kind],
            "class_id": kind,
            "pixels": int(counted[kind]),
            "share": round(float(counted[kind]) / found.size, 6),
            "mask": {
                "size": list(found.shape),
                "counts": _counts(values == kind, starts, found.size),
            },
        }
        for kind in np.argsort(-counted, kind="stable").tolist()
        if counted[kind]
    ]


def _counts(inside: NDArray[np.bool_], starts: NDArray[np.int64], pixels: int) -> list[int]:
    """COCO's run lengths of one class, beginning with pixels outside: of runs of one class each,
    whether it is this one, and where each starts."""
    edges = starts[1:][inside[1:] != inside[:-1]]
    ends = np.concatenate(([0] if inside[0] else [], [0], edges, [pixels]))
    counts: list[int] = np.diff(ends).astype(int).tolist()
    return counts


def colour(number: int) -> tuple[int, int, int]:
    """A class's RGB colour: hues as far apart as they go, in turn light and dark."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618 % 1, 0.75, (0.9, 0.65)[number % 2])
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(image: NDArray[np.uint8], found: LabelMap, labels: Sequence[str]) -> NDArray[np.uint8]:
    """A copy of the picture with its classes in colour, the largest named; a class that is called
    background stays as it is.

    Args:
        image: ``[H, W, 3]`` uint8 RGB.
        found: ``[H, W]``.

    Returns:
        ``[H, W, 3]`` uint8 RGB.
    """
    table = np.array([colour(i) for i in range(len(labels))], np.uint8)
    canvas = np.asarray(cv2.addWeighted(image, 0.45, table[found], 0.55, 0), np.uint8)
    plain = [i for i, name in enumerate(labels) if name.strip("_ ").lower() == "background"]
    if plain:
        np.copyto(canvas, image, where=np.isin(found, plain)[..., None])
    line = max(1, round(sum(image.shape[:2]) / 800))
    size = max(0.4, sum(image.shape[:2]) / 3200)
    counted, y = areas(found, len(labels)), 2
    named = [i for i in np.argsort(-counted, kind="stable").tolist() if counted[i]]
    for i in [i for i in named if i not in plain][:LEGEND]:
        (w, h), base = cv2.getTextSize(labels[i], cv2.FONT_HERSHEY_SIMPLEX, size, line)
        cv2.rectangle(canvas, (2, y), (w + 6, y + h + base + 2), colour(i), -1)
        cv2.putText(
            canvas, labels[i], (4, y + h + 1), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255),
            line, cv2.LINE_AA,
        )  # fmt: skip
        y += h + base + 4
    return canvas
