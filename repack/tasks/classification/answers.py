"""A classifier's requests and answers: pictures; the most probable classes."""

from __future__ import annotations

from handlers.passport import Passport
from repack.tasks.schemas import (
    IMAGE,
    JSON,
    SHARE,
    Schema,
    answer,
    classes,
    listed,
    pictures,
    record,
)

taken = pictures


def given(passport: Passport) -> dict[str, Schema]:
    one = record(**classes(passport), probability=SHARE)
    found = listed(one, maxItems=len(passport.labels))  # a request may ask for all: ?top_k=
    return {JSON: answer(passport, image=IMAGE, classes=found)}
