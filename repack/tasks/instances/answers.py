"""Instance segmentation's requests and answers: a detector's, each box with its mask."""

from __future__ import annotations

from handlers.passport import Passport
from repack.tasks.detection import answers
from repack.tasks.schemas import COUNT, Schema, listed, record, row

taken, parameters = answers.taken, answers.parameters


def given(passport: Passport) -> dict[str, Schema]:
    outlines = listed(listed({"type": "integer"}, minItems=6))
    mask = record(size=row(2, COUNT), counts=listed(COUNT))
    return {**answers.given(passport, polygons=outlines, mask=mask), "image/png": {}}
