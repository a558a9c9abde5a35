"""A detector's requests and answers: pictures; boxes, or the picture with them drawn."""

from __future__ import annotations

from handlers import heads
from handlers.passport import Passport
from repack.tasks.schemas import (
    DRAWN,
    IMAGE,
    JSON,
    SHARE,
    Schema,
    answer,
    classes,
    listed,
    pictures,
    record,
    row,
    whole,
)

taken = pictures


def parameters(passport: Passport) -> dict[str, Schema]:
    """What a request may narrow; ``iou`` where boxes are suppressed after the network."""
    s, last = passport.settings, max(0, len(passport.labels) - 1)
    name = {"enum": list(dict.fromkeys(passport.labels))}
    number = {"type": "integer", "minimum": 0, "maximum": last}
    iou = {} if heads.required(s).ranked else {"iou": {**SHARE, "default": s["iou"]}}
    return {
        "conf": {**SHARE, "minimum": s["confidence"], "default": s["confidence"]},
        **iou,
        "classes": listed({"anyOf": [name, number]}, minItems=1),
        "max_det": {**whole(s["max_detections"]), "default": s["max_detections"]},
    }


def given(passport: Passport, **more: Schema) -> dict[str, Schema]:
    """Args:
    more: fields of a box beside its own.
    """
    one = record(**classes(passport), confidence=SHARE, box=row(4), **more)
    most = passport.settings["max_detections"]
    return {JSON: answer(passport, image=IMAGE, detections=listed(one, maxItems=most)), DRAWN: {}}
