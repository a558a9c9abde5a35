"""Every format against SimpleITK, nibabel and pydicom, which read and write the same files."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from handlers.errors import BadInput, ItemError, TooLarge, Unprocessable, UnsupportedFormat
from handlers.volumes import dicom_seg, nifti, reading
from handlers.volumes.geometry import LPS_TO_RAS, Layout, Volume
from tests.support import volumes

NIBABEL = Path(nib.__file__).parent / "tests" / "data"
SERIES = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"


def read(data: bytes) -> Volume:
    return reading.read(data, lambda layout: None)


def itk_image(dtype: str = "f4", vector: bool = False) -> Any:
    """An oblique image of 7x6x5 voxels, or of two values a voxel."""
    voxels = np.random.default_rng(0).normal(0, 50, (5, 6, 7)).astype(dtype)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((1.0, -2.0, 3.0))
    a, b = 0.3, 0.4
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    image.SetDirection((turn @ tilt).ravel().tolist())
    return sitk.Compose(image, image * 2) if vector else image


def itk_affine(image: Any) -> NDArray[Any]:
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = direction * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return np.asarray(LPS_TO_RAS @ affine)


def written(image: Any, path: Path, packed: bool = False) -> bytes:
    sitk.WriteImage(image, str(path), packed)
    return path.read_bytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "mha", "nrrd"])
def test_what_simpleitk_writes(tmp_path: Path, suffix: str, dtype: str, packed: bool) -> None:
    image = itk_image(dtype)
    volume = read(written(image, tmp_path / f"a.{suffix}", packed))
    expected = sitk.GetArrayFromImage(image).astype(np.float32)
    np.testing.assert_array_equal(volume.data, expected[None])
    assert volume.data.dtype == np.float32
    assert volume.geometry.shape == (5, 6, 7)
    np.testing.assert_allclose(volume.geometry.affine, itk_affine(image), atol=1e-5)
    np.testing.assert_allclose(volume.geometry.spacing, (3.0, 0.75, 0.5), rtol=1e-6)


@pytest.mark.parametrize("suffix", ["mha", "nrrd"])
def test_several_values_a_voxel(tmp_path: Path, suffix: str) -> None:
    volume = read(written(itk_image(vector=True), tmp_path / f"a.{suffix}"))
    assert volume.data.shape == (2, 5, 6, 7)
    np.testing.assert_array_equal(volume.data[1], 2 * volume.data[0])


@pytest.mark.parametrize("suffix", ["mha", "nrrd"])
def test_a_mask_for_another_format_lies_where_its_scan_lies(tmp_path: Path, suffix: str) -> None:
    image = itk_image()
    volume = read(written(image, tmp_path / f"a.{suffix}"))
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(nifti.write(np.ones((5, 6, 7), np.uint8), volume, "note"))
    mask = sitk.ReadImage(str(path))
    for get in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
        np.testing.assert_allclose(getattr(mask, get)(), getattr(image, get)(), atol=1e-5)


@pytest.mark.parametrize(
    "name", ["anatomical.nii", "functional.nii", "example4d.nii.gz", "example_nifti2.nii.gz",
             "standard.nii.gz"],
)  # fmt: skip
def test_volumes_that_nibabel_ships(name: str) -> None:
    image: Any = nib.load(NIBABEL / name)
    volume = read((NIBABEL / name).read_bytes())
    values = image.get_fdata().reshape(*image.shape[:3], -1)
    np.testing.assert_array_equal(volume.data, values.T.astype(np.float32))
    np.testing.assert_allclose(volume.geometry.affine, image.affine)
    made = nifti.write(np.ones(volume.geometry.shape, np.uint16), volume, "note")
    again = type(image).from_bytes(gzip.decompress(made))
    np.testing.assert_array_equal(again.affine, image.affine)
    for field in nifti.FORMS:
        np.testing.assert_array_equal(again.header[field], image.header[field], field)
    np.testing.assert_array_equal(again.header["pixdim"][:4], image.header["pixdim"][:4])
    assert int(again.header["xyzt_units"]) == int(image.header["xyzt_units"]) & 7
    assert again.get_data_dtype() == np.uint16
    assert np.asarray(again.dataobj).min() == 1


def test_nan_in_a_shipped_volume_is_refused() -> None:
    with pytest.raises(Unprocessable, match="nan at voxel x=0, y=0, z=0, and 73 more"):
        read((NIBABEL / "resampled_anat_moved.nii").read_bytes())


def test_nifti_scaling_units_and_byte_order() -> None:
    stored = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    scaled = volumes.nifti(stored, scl_slope=0.5, scl_inter=-3)
    np.testing.assert_array_equal(read(scaled).data[0], stored * np.float32(0.5) - 3)
    micro = read(volumes.nifti(stored, np.diag([500.0, 500, 2000, 1]), xyzt_units=3))
    np.testing.assert_allclose(micro.geometry.spacing, (2.0, 0.5, 0.5))
    np.testing.assert_allclose(micro.geometry.affine, np.diag([0.5, 0.5, 2, 1]))
    big = nib.Nifti1Image(stored.T, volumes.AFFINE, nib.Nifti1Header(endianness=">")).to_bytes()
    np.testing.assert_array_equal(read(big).data[0], stored)
    mask, image = volumes.load_mask(nifti.write(stored.astype(np.uint16), read(big), "n"))
    np.testing.assert_array_equal(mask, stored)
    np.testing.assert_allclose(image.affine, volumes.AFFINE, atol=1e-6)


def test_several_gzip_members_are_one_file() -> None:
    plain = volumes.nifti(volumes.scan(), packed=False)
    parts = b"".join(gzip.compress(plain[i : i + 30000]) for i in range(0, len(plain), 30000))
    np.testing.assert_array_equal(read(parts).data[0], volumes.scan())
    with pytest.raises(BadInput, match="truncated"):
        read(parts[:-20000])


@pytest.mark.parametrize("name", ["98892001/CT5N"])
def test_a_series_that_pydicom_ships(name: str) -> None:
    files = {path.name: path.read_bytes() for path in sorted((SERIES / name).iterdir())}
    volume = read(volumes.zipped(files))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(SERIES / name)))
    image = reader.Execute()
    np.testing.assert_array_equal(volume.data[0], sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.geometry.affine, itk_affine(image), atol=1e-4)


def test_series_with_holes_and_turns_are_refused_by_name() -> None:
    for name, words in (("77654033/CT2", "missing between"), ("98892001/CT2N", "orientation")):
        files = {path.name: path.read_bytes() for path in (SERIES / name).iterdir()}
        with pytest.raises(BadInput, match=words):
            read(volumes.zipped(files))


def test_an_oblique_series_and_the_segmentation_made_of_it(tmp_path: Path) -> None:
    voxels = np.round(volumes.scan((6, 40, 33)) * 100).astype(np.int16)
    volume = read(volumes.dicom_zip(volumes.series(voxels)))
    np.testing.assert_array_equal(volume.data[0], voxels)
    mask = np.where(voxels > 100, 2, np.where(voxels < -100, 7, 0)).astype(np.uint8)
    data = dicom_seg.write(mask, volume, [(2, "vessel"), (7, "wall")], ("seg", "1.0"), "note")
    found = pydicom.dcmread(io.BytesIO(data))
    assert [s.SegmentLabel for s in found.SegmentSequence] == ["vessel", "wall"]
    import highdicom as hd

    seg = hd.seg.Segmentation.from_dataset(found)
    whole = seg.get_volume(combine_segments=True).flip_spatial(0)  # DICOM counts from the head
    lps = np.asarray(whole.affine)  # (slice, row, column) to LPS
    np.testing.assert_allclose(LPS_TO_RAS @ lps[:, [2, 1, 0, 3]], volume.geometry.affine, atol=1e-3)
    np.testing.assert_array_equal(whole.array, np.select([mask == 2, mask == 7], [1, 2]))
    empty = dicom_seg.write(mask * 0, volume, [(2, "vessel")], ("seg", "1.0"), "note")
    assert not pydicom.dcmread(io.BytesIO(empty)).pixel_array.any()


def test_rle_is_read_and_other_codecs_are_named() -> None:
    from pydicom.uid import JPEG2000Lossless, RLELossless

    voxels = np.round(volumes.scan((3, 20, 33)) * 100).astype(np.int16)
    files = volumes.series(voxels)
    for dataset in files.values():
        dataset.compress(RLELossless)
    np.testing.assert_array_equal(read(volumes.dicom_zip(files)).data[0], voxels)
    for dataset in files.values():
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    with pytest.raises(UnsupportedFormat, match=r"1\.2\.840\.10008\.1\.2\.4\.90; expected"):
        read(volumes.dicom_zip(files))


def test_one_slice_takes_its_thickness() -> None:
    volume = read(volumes.dicom_zip(volumes.series(np.zeros((1, 4, 5), np.int16), spacing=4.0)))
    assert volume.geometry.spacing == (4.0, 0.8, 0.7)


def test_a_tilted_gantry_is_refused() -> None:
    files = volumes.series(np.zeros((4, 5, 6), np.int16))
    for i, dataset in enumerate(files.values()):
        x, y, z = (float(v) for v in dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x + 0.4 * i, y, z]
    with pytest.raises(Unprocessable, match="tilted gantry"):
        read(volumes.dicom_zip(files))


@pytest.mark.parametrize(
    ("suffix", "old", "new", "error", "words"),
    [
        ("mha", b"LOCAL", b"a.raw", UnsupportedFormat, "another file"),
        ("mha", b"NDims = 3", b"NDims = 9", Unprocessable, "9 axes"),
        ("mha", b"NDims = 3", b"NDims = x", BadInput, "'x' axes"),
        ("mha", b"MET_SHORT", b"MET_OTHER", Unprocessable, "MET_OTHER"),
        ("mha", b"DimSize = 7 6 5", b"DimSize = 7 6 9", BadInput, "the header lies"),
        ("mha", b"DimSize = 7 6 5", b"DimSize = 7 6 4", BadInput, "more data"),
        ("mha", b"DimSize = 7 6 5", b"DimSize = 7 6", BadInput, "expected 3 numbers"),
        ("mha", b"DimSize = 7 6 5", b"DimSize = 7 6 0", Unprocessable, "at least one voxel"),
        ("mha", b"Spacing = 0.5", b"Spacing = 0.0", Unprocessable, "spacing 0, 0.75, 3 mm"),
        ("mha", b"Spacing = 0.5", b"Spacing = nan", Unprocessable, "spacing nan"),
        ("mha", b"BinaryData = True", b"BinaryData = No", UnsupportedFormat, "as text"),
        ("mha", b"ElementDataFile", b"ElementDataFil", BadInput, "no end"),
        ("nrrd", b"encoding: raw", b"encoding: hex", UnsupportedFormat, "'hex'"),
        ("nrrd", b"encoding: raw", b"data file: a", UnsupportedFormat, "another file"),
        ("nrrd", b"type: short", b"type: block", Unprocessable, "'block'"),
        ("nrrd", b"sizes: 7 6 5", b"sizes: 7 6 9", BadInput, "the header lies"),
        ("nrrd", b"sizes: 7 6 5", b"sizes: 7 6 4", BadInput, "more data"),
        ("nrrd", b"dimension: 3", b"dimension: 7", Unprocessable, "7 axes"),
        ("nrrd", b"left-posterior-superior", b"scanner-xyz", Unprocessable, "'scanner-xyz'"),
        ("nrrd", b"space directions: (", b"space directions: (x", BadInput, "expected a number"),
        ("nrrd", b"space origin: (", b"space origin: (0,0,0,", BadInput, "three numbers"),
        ("nrrd", b"\n\n", b"\n", BadInput, "no end"),
    ],
)
def test_headers_with_something_wrong(
    tmp_path: Path, suffix: str, old: bytes, new: bytes, error: type[ItemError], words: str
) -> None:
    data = written(itk_image("i2"), tmp_path / f"a.{suffix}")
    assert old in data
    with pytest.raises(error, match=words):
        read(data.replace(old, new, 1))


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "mha", "nrrd"])
def test_cut_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    data = written(itk_image("i2"), tmp_path / f"a.{suffix}", packed=suffix != "nii")
    for end in range(0, len(data), 7):
        with pytest.raises((BadInput, UnsupportedFormat)):
            read(data[:end])


def test_a_flat_affine_is_refused() -> None:
    affine = volumes.AFFINE.copy()
    affine[:3, 2] = affine[:3, 1]
    body = volumes.nifti(volumes.scan(), affine)
    with pytest.raises(Unprocessable, match="three independent axes"):
        read(body)


def test_the_limit_is_asked_before_voxels_are_read() -> None:
    seen: list[Layout] = []

    def admit(layout: Layout) -> None:
        seen.append(layout)
        raise TooLarge("no")

    for body in (volumes.nifti(volumes.scan())[:400], volumes.dicom_zip(volumes.series(
        np.zeros((3, 4, 5), np.int16)))):  # fmt: skip
        with pytest.raises(TooLarge):
            reading.read(body, admit)
    assert [layout.geometry.shape for layout in seen] == [(21, 40, 33), (3, 4, 5)]
    assert [layout.stored for layout in seen] == [np.float32, np.int16]
