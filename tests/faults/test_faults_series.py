"""Row 10: DICOM series and zips with something wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support import volumes
from tests.support.bench import Bench
from tests.support.volumes import SCAN


def series() -> dict[str, Any]:
    return volumes.series(np.round(SCAN[:8] * 100).astype(np.int16))


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda files: files.pop(name)


def other(name: str, **tags: Any) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        for tag, value in tags.items():
            setattr(files[name], tag, value)

    return change


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (without("IM0004.dcm"), 400, ("missing between IM0005.dcm and IM0003.dcm", "5 mm apart")),
        (other("IM0004.dcm", Rows=20), 400, ("IM0004.dcm is of another size", "Rows 20 and 40")),
        (
            other("IM0004.dcm", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
            400,
            ("IM0004.dcm lies in another orientation",),
        ),
        (other("IM0004.dcm", PixelSpacing=[1, 1]), 400, ("IM0004.dcm has another pixel spacing",)),
        (other("IM0004.dcm", PixelSpacing=[0, 1]), 422, ("IM0004.dcm", "expected positive")),
        (other("IM0004.dcm", SeriesInstanceUID="1.2.3"), 400, ("IM0004.dcm is of another series",)),
        (other("IM0004.dcm", PixelData=b"abcd"), 400, ("IM0004.dcm is truncated",)),
        (other("IM0004.dcm", RescaleSlope="1e39"), 422, ("inf at voxel",)),
        (other("IM0004.dcm", ImagePositionPatient=None), 400, ("IM0004.dcm has no ImagePosition",)),
        (other("IM0004.dcm", NumberOfFrames=2), 422, ("IM0004.dcm has 2 frames",)),
        (other("IM0004.dcm", SamplesPerPixel=3), 422, ("IM0004.dcm has 3 samples",)),
    ],
)
def test_row_10_series_with_something_wrong(
    scanning: Bench, change: Callable[[dict[str, Any]], None], status: int, words: tuple[str, ...]
) -> None:
    files = series()
    change(files)
    scanning.ask(volumes.dicom_zip(files)).reason(status, *words)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (volumes.zipped({"../evil.dcm": b"x"}), 400, ("'../evil.dcm' points outside",)),
        (volumes.zipped({"/evil.dcm": b"x"}), 400, ("points outside",)),
        (volumes.zipped({"a.txt": b"x"}), 400, ("a.txt is no DICOM file with a slice",)),
        (volumes.zipped({}), 415, ("a zip without files",)),
        (volumes.dicom_zip(series())[:3000], 400, ("damaged or truncated",)),
        (volumes.zipped({"a.dcm": bytes(40 << 20)}), 413, ("at most 200 times",)),
        (volumes.zipped({"a.dcm": bytes(130 << 20)}), 413, ("unpacks to 130.0 MiB",)),
    ],
)
def test_row_10_zips_with_something_wrong(
    scanning: Bench, body: bytes, status: int, words: tuple[str, ...]
) -> None:
    scanning.ask(body).reason(status, *words)


def test_row_10_a_link_in_a_zip(scanning: Bench) -> None:
    body = bytearray(volumes.zipped({"a.dcm": b"/etc/passwd"}))
    at = body.rindex(b"PK\x01\x02")
    body[at + 5] = 3  # made on Unix
    struct.pack_into("<I", body, at + 38, 0o120777 << 16)
    scanning.ask(bytes(body)).reason(400, "'a.dcm' is a link")
