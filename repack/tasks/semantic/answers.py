"""Semantic segmentation's requests and answers: pictures; the classes that are there."""

from __future__ import annotations

from handlers.passport import Passport
from repack.tasks.schemas import (
    COUNT,
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


def given(passport: Passport) -> dict[str, Schema]:
    mask = record(size=row(2, COUNT), counts=listed(COUNT))
    one = record(**classes(passport), pixels=COUNT, share=SHARE, mask=mask)
    found = listed(one, minItems=1, maxItems=len(passport.labels))
    return {JSON: answer(passport, image=IMAGE, classes=found), DRAWN: {}, "image/png": {}}
