"""An enhanced DICOM object: one file whose frames are the slices, each with a place of its own."""

from __future__ import annotations

from typing import Any

from handlers.errors import Unprocessable

GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}
"""Functional groups, of all frames or of each, and the tags that a single slice has instead."""

SHARED, OWN = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"


def count(dataset: Any) -> int:
    """How many frames a file holds."""
    return int(dataset.get("NumberOfFrames") or 1)


def split(name: str, dataset: Any) -> list[Any]:
    """A dataset for each frame, as single slices have it, without pixels.

    Raises:
        Unprocessable: frames without places of their own, as films have them.
    """
    from pydicom.dataset import Dataset

    frames, own = count(dataset), dataset.get(OWN) or []
    if len(own) != frames:
        raise Unprocessable(
            f"{name} has {frames} frames and places for {len(own)}; expected one slice a file, or "
            "an enhanced object whose frames each have a place"
        )
    shared = (dataset.get(SHARED) or [Dataset()])[0]
    common = {e.tag: e for e in dataset if e.keyword not in (SHARED, OWN, "NumberOfFrames")}
    found = []
    for groups in own:
        frame = Dataset(dict(common))
        for sequence, tags in GROUPS.items():
            for values in (groups.get(sequence) or shared.get(sequence) or [])[:1]:
                for tag in (tag for tag in tags if tag in values):
                    setattr(frame, tag, values[tag].value)
        found.append(frame)
    return found
