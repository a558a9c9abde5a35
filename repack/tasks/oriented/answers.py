"""Requests and answers of boxes at an angle: a detector's, each box with its rectangle."""

from __future__ import annotations

from handlers.passport import Passport
from repack.tasks.detection import answers
from repack.tasks.schemas import Schema, row

taken, parameters = answers.taken, answers.parameters


def given(passport: Passport) -> dict[str, Schema]:
    return answers.given(passport, xywhr=row(5), corners=row(4, row(2)))
