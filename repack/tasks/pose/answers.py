"""A pose estimator's requests and answers: a detector's, each box with its points."""

from __future__ import annotations

from handlers import heads
from handlers.passport import Passport
from handlers.pose import POINT
from repack.tasks.detection import answers
from repack.tasks.schemas import NUMBER, SHARE, Schema, row

taken, parameters = answers.taken, answers.parameters


def given(passport: Passport) -> dict[str, Schema]:
    point = {**row(POINT), "prefixItems": [NUMBER, NUMBER, SHARE]}
    count = heads.required(passport.settings).extras // POINT
    return answers.given(passport, points=row(count, point))
