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
    whole,
)

taken = pictures


def parameters(passport: Passport) -> dict[str, Schema]:
    most = len(passport.labels)
    return {"top_k": {**whole(most), "default": min(passport.settings["top_k"], most)}}


def given(passport: Passport) -> dict[str, Schema]:
    one = record(**classes(passport), probability=SHARE)
    found = listed(one, maxItems=len(passport.labels))  # a request may ask for all: ?top_k=
    return {JSON: answer(passport, image=IMAGE, classes=found)}
