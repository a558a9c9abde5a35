"""DICOM series as hospitals send them: anonymised, rounded, with other things in the zip."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

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


@pytest.mark.parametrize(
    ("tag", "value", "left_out"),
    [
        ("StudyDate", "notadate", ["StudyDate"]),
        ("StudyTime", "25:99", ["StudyTime"]),
        ("PatientBirthDate", "19", ["PatientBirthDate"]),
        ("PatientSex", "X", ["PatientSex"]),
        ("SpecificCharacterSet", "nonsense", ["SpecificCharacterSet"]),
        ("SliceThickness", None, []),
        ("RescaleSlope", None, []),
    ],
)
def test_a_tag_with_no_value_of_its_kind_costs_no_answer(
    tag: str, value: str | None, left_out: list[str]
) -> None:
    files = series()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dataset in files.values():
            setattr(dataset, tag, value)
            if tag == "SliceThickness":
                del dataset.SliceThickness
        volume = read(volumes.dicom_zip(files))
    made = dicom_seg.write(np.ones((6, 5, 4), np.uint8), volume, [(1, "a")], ("m", "1"), "note")
    assert int(np.asarray(pydicom.dcmread(io.BytesIO(made)).pixel_array).sum()) == 120
    assert list(volume.left_out) == left_out


def test_one_uid_that_is_missing_is_that_of_the_others() -> None:
    files = series()
    first, *others = files.values()
    del first.StudyInstanceUID, first.FrameOfReferenceUID
    volume = read(volumes.dicom_zip(files))
    found = {(d.StudyInstanceUID, d.FrameOfReferenceUID) for d in volume.origin}
    assert found == {(others[0].StudyInstanceUID, others[0].FrameOfReferenceUID)}


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("PatientID", "is of another patient than IM000.\\.dcm: PatientID; expected"),
        ("StudyInstanceUID", "is of another study"),
        ("FrameOfReferenceUID", "is of another frame of reference"),
        ("SOPClassUID", "is of another kind"),
    ],
)
def test_slices_that_cannot_be_one_series_are_refused(tag: str, words: str) -> None:
    files = series()
    setattr(files["IM0003.dcm"], tag, "1.2.3")
    with pytest.raises(BadInput, match=words):
        read(volumes.dicom_zip(files))


@pytest.mark.parametrize("tag", ["RescaleSlope", "PixelSpacing", "NumberOfFrames"])
def test_a_number_that_is_none_is_the_senders_mistake(tag: str) -> None:
    files = series()
    for dataset in files.values():
        dataset.add_new(tag, "LO", "some")
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    with warnings.catch_warnings(), pytest.raises(BadInput, match="IM000"):
        warnings.simplefilter("ignore")
        read(volumes.dicom_zip(files))


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


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_files_without_preamble_or_file_meta_are_read(syntax: str) -> None:
    files = series()
    for dataset in files.values():
        dataset.file_meta.TransferSyntaxUID = syntax
    without_preamble = {name: one_file(d)[132:] for name, d in files.items()}
    without_meta = {  # whose length is that of its identifiers
        name: data[12 + int.from_bytes(data[8:12], "little") :]
        for name, data in without_preamble.items()
    }
    for given in (without_preamble, without_meta):
        assert np.array_equal(read(volumes.zipped(given)).data[0], VOXELS)


def compressed(syntax: str) -> dict[str, Any]:
    files = series()
    for dataset in files.values():
        dataset.compress(syntax, generate_instance_uid=False)
    return files


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_lossless_pixels_are_read(syntax: str) -> None:
    assert np.array_equal(read(volumes.dicom_zip(compressed(syntax))).data[0], VOXELS)


def test_a_jpeg_ls_frame_of_another_size_is_refused_before_it_is_decoded() -> None:
    files = compressed(JPEGLSLossless)
    dataset = next(iter(files.values()))
    at = dataset.PixelData.index(b"\xff\xf7") + 5
    dataset.PixelData = dataset.PixelData[:at] + b"\xff\xff\xff\xff" + dataset.PixelData[at + 4 :]
    with pytest.raises(BadInput, match=r"a JPEG-LS frame of 65535x65535 pixels.*header says 4x5"):
        read(volumes.dicom_zip(files))
    dataset.PixelData = dataset.PixelData[: at - 5] + bytes(len(dataset.PixelData) - at + 5)
    with pytest.raises(BadInput, match="no JPEG-LS frame that can be read"):
        read(volumes.dicom_zip(files))


def enhanced(order: list[int]) -> Any:
    """The series as one object, its frames in another order than that of z."""
    slices = list(series().values())
    whole = pydicom.dcmread(io.BytesIO(one_file(slices[0])))
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    whole.NumberOfFrames = len(order)
    whole.PixelData = b"".join(slices[i].PixelData for i in order)

    def group(sequence: str, *tags: str, of: Any = slices[0]) -> tuple[str, Sequence]:
        values = Dataset()
        for tag in tags:
            setattr(values, tag, of[tag].value)
        return sequence, Sequence([values])

    shared, own = Dataset(), []
    for sequence, items in (
        group("PlaneOrientationSequence", "ImageOrientationPatient"),
        group("PixelMeasuresSequence", "PixelSpacing", "SliceThickness"),
        group("PixelValueTransformationSequence", "RescaleSlope", "RescaleIntercept"),
    ):
        setattr(shared, sequence, items)
    for i in order:
        own.append(Dataset())
        setattr(own[-1], *group("PlanePositionSequence", "ImagePositionPatient", of=slices[i]))
    for tag in (
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "PixelSpacing",
        "SliceThickness",
    ):
        delattr(whole, tag)
    del whole.RescaleSlope, whole.RescaleIntercept
    whole.SharedFunctionalGroupsSequence = Sequence([shared])
    whole.PerFrameFunctionalGroupsSequence = Sequence(own)
    return whole


@pytest.mark.parametrize("syntax", [None, JPEGLSLossless])
def test_an_enhanced_object_is_read_and_answered_frame_by_frame(syntax: str | None) -> None:
    whole = enhanced([3, 0, 5, 1, 2, 4])
    if syntax:
        whole.compress(syntax, generate_instance_uid=False)
    volume = read(volumes.dicom_zip({"whole": whole}))
    single = read(volumes.dicom_zip(series()))
    assert np.array_equal(volume.data, single.data)
    assert volume.geometry.same_grid(single.geometry)
    mask = np.zeros((6, 5, 4), np.uint8)
    mask[1, :2] = 1
    found = pydicom.dcmread(
        io.BytesIO(dicom_seg.write(mask, volume, [(1, "a")], ("m", "1"), "note"))
    )
    (frame,) = found.PerFrameFunctionalGroupsSequence
    place = frame.PlanePositionSequence[0].ImagePositionPatient
    wanted = sorted(series().items(), reverse=True)[1][1].ImagePositionPatient
    np.testing.assert_allclose(np.array(place, float), np.array(wanted, float), atol=1e-4)
    assert int(np.asarray(found.pixel_array).sum()) == 8


def test_frames_that_are_no_series_are_refused() -> None:
    one = enhanced([0, 1])
    with pytest.raises(Unprocessable, match="several enhanced objects, or one among single"):
        read(with_files({"whole": one}, other=one_file(one)[:-2] + bytes(2)))
    del one.PerFrameFunctionalGroupsSequence
    with pytest.raises(Unprocessable, match="whole has 2 frames and places for 0"):
        read(volumes.dicom_zip({"whole": one}))
    one = enhanced([0, 0])
    with pytest.raises(
        BadInput, match="frame 1 of whole and frame 2 of whole lie at the same place"
    ):
        read(volumes.dicom_zip({"whole": one}))


def test_files_that_are_something_else_are_told_apart() -> None:
    with pytest.raises(BadInput, match="is no DICOM file with a slice"):
        read(volumes.zipped({"a.txt": b"hello", "b.txt": b"you"}))


def test_channels_under_unknown_names_are_not_guessed() -> None:
    scan = volumes.nifti(volumes.scan())
    names = ["T1", "T2"]
    with pytest.raises(Unprocessable, match="fields a, b came; expected T1, T2"):
        reading.read_channels([("a", scan), ("b", scan)], names, lambda layout: None)
    found = reading.read_channels([("t2", scan), ("T1", scan)], names, lambda layout: None)
    assert dict(found.channels) == {"T1": "T1", "T2": "t2"}


def test_each_channels_left_out_files_are_named() -> None:
    bodies = [("a", with_files(series(), one=b"1")), ("b", with_files(series(), two=b"2"))]
    found = reading.read_channels(bodies, ["a", "b"], lambda layout: None)
    assert found.left_out == ("one", "two")
