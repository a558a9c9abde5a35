"""DICOM series as hospitals send them: anonymised, rounded, with other things in the zip."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest

from handlers.errors import BadInput, Unprocessable
from handlers.volumes import dicom_seg, reading
from handlers.volumes.geometry import Volume
from tests.support import volumes

VOXELS = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4)


def read(body: bytes) -> Volume:
    return reading.read(body, lambda layout: None)


def series(**changed: Any) -> dict[str, Any]:
    return volumes.series(VOXELS, **changed)


@pytest.mark.parametrize(
    "gone",
    [
        ["FrameOfReferenceUID"],
        ["StudyInstanceUID"],
        ["PatientID", "PatientName", "PatientBirthDate", "PatientSex"],
        ["StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID"],
    ],
)
def test_an_anonymised_series_gets_its_segmentation(gone: list[str]) -> None:
    files = series()
    for dataset in files.values():
        for tag in gone:
            if tag in dataset:
                delattr(dataset, tag)
    volume = read(volumes.dicom_zip(files))
    mask = (volume.data[0] > 40).astype(np.uint8)
    made = dicom_seg.write(mask, volume, [(1, "bright")], ("m", "1"), "note")
    found = pydicom.dcmread(io.BytesIO(made))
    assert int(np.asarray(found.pixel_array).sum()) == int(mask.sum())
    assert len({str(d.get("FrameOfReferenceUID", "")) for d in volume.origin}) == 1


def test_positions_with_two_decimals_are_an_even_stack() -> None:
    files = series(spacing=0.625)
    for dataset in files.values():
        dataset.ImagePositionPatient = [round(float(v), 2) for v in dataset.ImagePositionPatient]
    volume = read(volumes.dicom_zip(files))
    assert volume.geometry.spacing[0] == pytest.approx(0.625, abs=2e-3)


def test_a_slice_off_the_line_is_named() -> None:
    files = series(spacing=2.0)
    name = sorted(files)[3]
    normal = np.cross(*np.array(files[name].ImageOrientationPatient, float).reshape(2, 3))
    moved = np.array(files[name].ImagePositionPatient, float) + 0.3 * normal
    files[name].ImagePositionPatient = [float(v) for v in moved]
    with pytest.raises(BadInput, match=r"unevenly spaced: .* lies 0\.3 mm from"):
        read(volumes.dicom_zip(files))


def with_files(files: dict[str, Any], **others: bytes) -> bytes:
    import zipfile

    out = io.BytesIO(volumes.dicom_zip(files))
    with zipfile.ZipFile(out, "a") as z:
        for name, data in others.items():
            z.writestr(name, data)
    return out.getvalue()


def one_file(dataset: Any) -> bytes:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(volumes.dicom_zip({"one": dataset}))) as z:
        return z.read("one")


def test_what_is_no_slice_is_left_out_and_named() -> None:
    files = series()
    first = next(iter(files.values()))
    report = pydicom.dcmread(io.BytesIO(one_file(first)))
    for tag in ("Rows", "Columns", "PixelData", "PixelSpacing"):
        delattr(report, tag)
    report.SOPInstanceUID = "1.2.3.4"
    body = with_files(files, README=b"hello", dose=one_file(report), again=one_file(first))
    volume = read(body)
    assert sorted(volume.left_out) == ["README", "again", "dose"]
    assert volume.data.shape == (1, 6, 5, 4)


def test_two_different_slices_in_one_place_are_refused() -> None:
    files = series()
    other = pydicom.dcmread(io.BytesIO(one_file(next(iter(files.values())))))
    other.SOPInstanceUID = "1.2.3.4"
    with pytest.raises(BadInput, match="lie at the same place"):
        read(with_files(files, other=one_file(other)))


def test_files_that_are_something_else_are_told_apart() -> None:
    bare = {name: one_file(d)[132:] for name, d in series().items()}
    meta_length = 12 + int.from_bytes(next(iter(bare.values()))[8:12], "little")
    stripped = {name: data[meta_length:] for name, data in bare.items()}
    with pytest.raises(BadInput, match="has no preamble"):
        read(volumes.zipped(stripped))
    with pytest.raises(BadInput, match="is no DICOM file with a slice"):
        read(volumes.zipped({"a.txt": b"hello", "b.txt": b"you"}))
    files = series()
    for dataset in files.values():
        dataset.NumberOfFrames = 4
    with pytest.raises(Unprocessable, match="has 4 frames"):
        read(volumes.dicom_zip(files))


def test_channels_under_unknown_names_are_not_guessed() -> None:
    scan = volumes.nifti(volumes.scan())
    names = ["T1", "T2"]
    with pytest.raises(Unprocessable, match="fields a, b came; expected T1, T2"):
        reading.read_channels([("a", scan), ("b", scan)], names, lambda layout: None)
    found = reading.read_channels([("t2", scan), ("T1", scan)], names, lambda layout: None)
    assert dict(found.channels) == {"T1": "T1", "T2": "t2"}
