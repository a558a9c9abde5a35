"""A series' tags of patient and study, made fit to be copied into an answer.

Anonymising takes tags out or leaves values behind that are none. What is missing is filled in when
a series is read, so that an answer cannot fail after the whole inference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

TYPE_2 = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName", "StudyID"),
)
"""Tags that must be there and may be empty (DICOM part 3, C.7.1 and C.7.2)."""

UIDS = ("StudyInstanceUID", "FrameOfReferenceUID")

COPIED = (0x0008, 0x0010, 0x0012, 0x0020, 0x0032)
"""Groups with the tags of patient and study that an answer takes over."""


def complete(series: Sequence[Any], thickness: float) -> list[str]:
    """Fills in, in place, what an answer needs of the slices' datasets.

    Args:
        series: the datasets; the first is the one whose patient and study are copied.
        thickness: mm, where a slice gives none.

    Returns:
        The tags that were left out, because their values are none of their type.
    """
    from pydicom.uid import generate_uid

    left_out = _checked(series[0])
    for tag in UIDS:
        given = next((uid for dataset in series if (uid := dataset.get(tag))), None)
        uid = given or generate_uid()
        for dataset in series:
            setattr(dataset, tag, uid)
    for dataset in series:
        if "SliceThickness" not in dataset:
            dataset.SliceThickness = f"{thickness:.6g}"
    for tag in TYPE_2:
        if tag not in series[0]:
            setattr(series[0], tag, "")
    return left_out


def _checked(dataset: Any) -> list[str]:
    """Takes out of a dataset the values that cannot be read as what they should be."""
    from pydicom.charset import python_encoding
    from pydicom.valuerep import DA, TM

    def sex(value: str) -> None:
        if value not in ("", "M", "F", "O"):
            raise ValueError(value)

    def character_sets(value: Any) -> None:
        for name in [value] if isinstance(value, str) else value or ():
            python_encoding[name]

    checks: dict[str, Callable[[Any], object]] = {
        "SpecificCharacterSet": character_sets,
        "PatientSex": sex,
        "PatientBirthDate": DA,
        "StudyDate": DA,
        "StudyTime": TM,
    }
    left_out = []
    for tag in [tag for tag in dataset.keys() if tag.group in COPIED]:  # noqa: SIM118
        shown = str(tag)
        try:
            element = dataset[tag]
            shown = element.keyword or shown
            if element.value is not None and (check := checks.get(element.keyword)):
                check(element.value)
        except Exception:  # pydicom raises many types for values that are none
            del dataset[tag]
            left_out.append(shown)
    return left_out
