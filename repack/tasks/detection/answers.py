"""A detector's requests and answers: pictures; boxes, or the picture with them drawn."""

from __future__ import annotations

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
)

taken = pictures


def given(passport: Passport, **more: Schema) -> dict[str, Schema]:
    """Args:
    more: fields of a box beside its own.
    """
    one = record(**classes(passport), confidence=SHARE, box=row(4), **more)
    most = passport.settings["max_detections"]
    return {JSON: answer(passport, image=IMAGE, detections=listed(one, maxItems=most)), DRAWN: {}}
