"""A mask as a DICOM Segmentation object that refers to the series it was made from."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.volumes.geometry import Volume

SCHEME = "99TSREPACK"
"""A private coding scheme: labels are the model's own words, not a published vocabulary."""

TISSUE = ("85756007", "SCT", "Tissue")
"""SNOMED CT's category for segments of anatomy."""


def write(
    mask: NDArray[Any],
    volume: Volume,
    labels: Sequence[tuple[int, str]],
    maker: tuple[str, str],
    note: str,
) -> bytes:
    """A DICOM-SEG file: one binary segment per label, one frame per slice that holds any of it.

    Args:
        mask: ``[z, y, x]``, slices in the order of ``volume.data``.
        labels: value and name of each label but the background.
        maker: the model's name and version.
        note: what the object's description says; cut to 64 characters.
    """
    import highdicom as hd
    from pydicom.uid import ExplicitVRLittleEndian

    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it logs every module it copies

    algorithm = hd.AlgorithmIdentificationSequence(
        name=maker[0][:64],
        version=maker[1][:64],
        family=hd.sr.CodedConcept("123109", "DCM", "Artificial Intelligence"),
    )
    if volume.frames:  # highdicom takes them in the order of the file
        mask = mask[np.argsort(volume.frames)]
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=hd.sr.CodedConcept(*TISSUE),
            segmented_property_type=hd.sr.CodedConcept(str(value), SCHEME, name[:64]),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, (value, name) in enumerate(labels, 1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values in the source's own tags
        found = hd.seg.Segmentation(
            source_images=volume.origin,
            pixel_array=_numbered(mask, [value for value, _ in labels]),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=hd.UID(),
            series_number=1000,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="torchserve-repack",
            manufacturer_model_name=maker[0][:64],
            software_versions=maker[1][:64],
            device_serial_number="1",
            content_description=note[:64],
            content_label="SEGMENTATION",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=bool(mask.any()),
        )
        out = io.BytesIO()
        found.save_as(out)
    return out.getvalue()


def _numbered(mask: NDArray[Any], values: Sequence[int]) -> NDArray[Any]:
    """Label values as segment numbers, 1 to their count, which is what DICOM-SEG counts by."""
    table = np.zeros(int(mask.max(initial=0)) + 1, np.uint8 if len(values) < 256 else np.uint16)
    for number, value in enumerate(values, 1):
        if value < len(table):
            table[value] = number
    return np.asarray(table[mask])
