"""A classifier's requests and answers: pictures; the most probable classes."""

from __future__ import annotations

from handlers.passport import Passport
from repack.tasks.schemas import (
    IMAGE,
    JSON,
    PICTURES,
    SHARE,
    Schema,
    answer,
    classes,
    files,
    listed,
    record,
)


def taken(passport: Passport) -> dict[str, Schema]:
    return files(*PICTURES)


def given(passport: Passport) -> dict[str, Schema]:
    one = record(**classes(passport), probability=SHARE)
    found = listed(one, maxItems=passport.settings["top_k"])
    return {JSON: answer(passport, image=IMAGE, classes=found)}
