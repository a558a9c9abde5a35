"""Requests and answers of nets of volumes: scans; masks, or what is in them."""

from __future__ import annotations

from handlers.passport import Passport
from repack.tasks.schemas import (
    COUNT,
    JSON,
    NUMBER,
    TEXT,
    Schema,
    answer,
    files,
    listed,
    record,
    row,
)

MASKS = ("application/gzip", "application/dicom")


def taken(passport: Passport) -> dict[str, Schema]:
    return files("application/gzip")


def given(passport: Passport) -> dict[str, Schema]:
    volume = record(
        format=TEXT,
        left_out=listed(TEXT),
        channels={"type": "object", "additionalProperties": TEXT},
        shape_zyx=row(3, COUNT),
        spacing_mm_zyx=row(3),
        affine_ras=row(4, row(4)),
    )
    label = record(label={"enum": list(passport.labels)}, value=COUNT, voxels=COUNT, ml=NUMBER)
    found = answer(
        passport,
        volume=volume,
        labels=row(len(passport.labels), label),
        windows=COUNT,
        milliseconds={"type": "object", "additionalProperties": NUMBER},
        memory_bytes={"type": "object", "additionalProperties": COUNT},
    )
    return {**{mask: {} for mask in MASKS}, JSON: found}
