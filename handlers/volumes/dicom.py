"""A DICOM series in a zip: single-frame slices, or one enhanced object."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handlers.errors import BadInput, ItemError, Unprocessable, UnsupportedFormat
from handlers.volumes import dicom_frames, dicom_tags
from handlers.volumes.archive import Files
from handlers.volumes.bounds import Buffer
from handlers.volumes.geometry import Admit, Geometry, Layout, Volume, checked, from_lps
from handlers.volumes.voxels import store

TRANSFER_SYNTAXES = {
    "1.2.840.10008.1.2": "implicit little endian",
    "1.2.840.10008.1.2.1": "explicit little endian",
    "1.2.840.10008.1.2.2": "explicit big endian",
    "1.2.840.10008.1.2.5": "RLE lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS near-lossless",
}
"""How pixels may be stored. A codec that holds sizes of its own is asked only where they are the
header's (``_check_jpeg_ls``)."""

NEEDED = (
    *("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "Rows", "Columns", "PixelSpacing"),
    *("ImagePositionPatient", "ImageOrientationPatient", "BitsAllocated", "PixelRepresentation"),
)

ALIKE = {
    "SeriesInstanceUID": "of another series",
    "StudyInstanceUID": "of another study",
    "FrameOfReferenceUID": "of another frame of reference",
    "PatientID": "of another patient",
    "SOPClassUID": "of another kind",
    **dict.fromkeys(("Rows", "Columns"), "of another size"),
    **dict.fromkeys(("BitsAllocated", "PixelRepresentation"), "of another pixel type"),
}
"""Tags that the slices of a series have in common, where they have them, and what one is that has
another value."""

SAME = 1e-3
"""How far orientation cosines and mm of pixel spacing may differ within a series."""

JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")

EVEN = 0.03
"""How far a slice may lie from where an even line of slices has it, as a share of their distance:
positions are often written with two decimals, so gaps differ where the line does not."""

TILT_MM = 0.1
"""How far the slices may shift sideways from first to last (a tilted gantry)."""


class Slice(NamedTuple):
    """One slice of the series.

    Attributes:
        name: what it is called in messages.
        header: its dataset without pixels.
        place: mm along z.
        file: its name in the zip.
        frame: which of the file's frames it is.
        whole: the file's own dataset, where it holds several frames.
    """

    name: str
    header: Any
    place: float
    file: str
    frame: int = 0
    whole: Any = None


def is_dicom(data: Buffer) -> bool:
    """Whether a file begins as DICOM files do: 128 bytes of anything, then DICM."""
    return bytes(data[128:132]) == b"DICM"


def read(data: Buffer, admit: Admit) -> Volume:
    """Reads the one series of a zip, its slices in the order of their positions.

    Returns:
        data ``[1, z, y, x]``, RescaleSlope and RescaleIntercept applied slice by slice; ``origin``
        is the slices' datasets without pixels.

    Raises:
        BadInput: a damaged zip or file; files of two series, sizes or orientations; a slice that
            is missing or there twice. Names the file.
        UnsupportedFormat: pixels stored otherwise than ``TRANSFER_SYNTAXES``; no DICOM in the zip.
        Unprocessable: colours, frames without places, several enhanced objects, a tilted gantry,
            spacing not positive, NaN or infinity.
        ItemError: whatever ``admit`` raises.
    """
    files = Files(data)
    found, left_out = _slices(files)
    slices = _sorted(found)
    geometry = _geometry(slices)
    first = slices[0].header
    stored = np.dtype(f"{'i' if first.PixelRepresentation else 'u'}{first.BitsAllocated // 8}")
    admit(Layout("DICOM", geometry, stored))
    whole = slices[0].whole
    origin = [piece.header for piece in slices] if whole is None else [whole]
    left_out += dicom_tags.complete(origin, geometry.spacing[0])
    voxels = np.empty((1, *geometry.shape), np.float32)
    held: dict[str, Any] = {}
    for z, piece in enumerate(slices):
        pixels, scale = _pixels(piece, files, held)
        store(voxels[0, z], pixels, scale, z)
    frames = () if whole is None else tuple(piece.frame for piece in slices)
    return Volume(voxels, geometry, "DICOM", origin, tuple(left_out), frames=frames)


def _slices(files: Files) -> tuple[list[Slice], list[str]]:
    """The series' slices; and what came along with it and is none: other documents, reports without
    pixels, a slice that is there twice to the byte.

    Raises:
        BadInput: a damaged file; no file is a slice.
    """
    found: list[Slice] = []
    left_out: list[str] = []
    seen: dict[str, bytes] = {}
    for name in files.names:
        data = _with_preamble(files.read(name))
        if not is_dicom(data):
            left_out.append(name)
            continue
        header = _dataset(name, data, pixels=False)
        uid = str(header.get("SOPInstanceUID", ""))
        if "Rows" not in header or (uid and seen.get(uid) == data):
            left_out.append(name)
            continue
        seen[uid] = data
        found += _in_file(name, header)
    if files.names and not found:
        raise BadInput(
            f"{left_out[0]} is no DICOM file with a slice, nor is any other of {len(left_out)} "
            "files of the zip; expected the slices of one series"
        )
    return found, left_out


def _with_preamble(data: bytes) -> bytes:
    """The file as DICOM has it, where it was written without preamble or without its file meta."""
    if data[:2] == b"\x02\x00":
        return bytes(128) + b"DICM" + data
    if data[:2] != b"\x08\x00":
        return data
    explicit = data[4:6].isalpha() and data[4:6].isupper()
    syntax = b"1.2.840.10008.1.2.1\0" if explicit else b"1.2.840.10008.1.2\0"
    meta = struct.pack("<HH2sH", 0x0002, 0x0010, b"UI", len(syntax)) + syntax
    return bytes(128) + b"DICM" + meta + data


def _in_file(name: str, dataset: Any) -> list[Slice]:
    try:
        if dicom_frames.count(dataset) == 1:
            return [_slice(name, dataset, name)]
        headers = dicom_frames.split(name, dataset)
    except ItemError:
        raise
    except Exception as e:  # pydicom raises many types for values that are none
        raise BadInput(f"{name} has frames that cannot be read ({e})") from None
    slices = [_slice(f"frame {k} of {name}", h, name) for k, h in enumerate(headers, 1)]
    return [piece._replace(frame=k, whole=dataset) for k, piece in enumerate(slices)]


def _slice(name: str, dataset: Any, file: str) -> Slice:
    try:
        missing = [tag for tag in NEEDED if dataset.get(tag) in (None, "")]
        if missing:
            raise BadInput(f"{name} has no {missing[0]}: no slice of a series")
        _check_kind(name, dataset)
        cosines = np.array(dataset.ImageOrientationPatient, np.float64)
        position = np.array(dataset.ImagePositionPatient, np.float64)
        if cosines.shape != (6,) or position.shape != (3,):
            raise ValueError("position or orientation of another length")
        normal = np.cross(cosines[:3], cosines[3:])
        return Slice(name, dataset, float(position @ normal), file)
    except ItemError:
        raise
    except (TypeError, ValueError, AttributeError, ArithmeticError) as e:
        raise BadInput(f"{name} has a header that cannot be read ({e})") from None


def _dataset(name: str, data: bytes, pixels: bool) -> Any:
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values in tags that nobody reads here
            syntax = _transfer_syntax(data)
            if syntax not in TRANSFER_SYNTAXES:
                known = ", ".join(TRANSFER_SYNTAXES.values())
                raise UnsupportedFormat(
                    f"{name} has the transfer syntax {syntax or 'none'}; expected {known}: "
                    "decompress the series first, as gdcmconv --raw does"
                )
            return pydicom.dcmread(io.BytesIO(data), stop_before_pixels=not pixels)
    except ItemError:
        raise
    except Exception as e:  # pydicom raises many types for damaged files
        raise BadInput(f"{name} is damaged or truncated ({type(e).__name__}: {e})") from None


def _transfer_syntax(data: bytes) -> str:
    """Read from the file's preamble alone: pydicom would inflate a deflated dataset whole."""
    from pydicom.filereader import _read_file_meta_info

    meta = _read_file_meta_info(io.BytesIO(data[132 : 132 + (1 << 16)]))
    return str(meta.get("TransferSyntaxUID", ""))


def _check_kind(name: str, dataset: Any) -> None:
    if int(dataset.get("SamplesPerPixel", 1)) != 1:
        raise Unprocessable(f"{name} has {dataset.SamplesPerPixel} samples a pixel; expected 1")
    if dataset.get("PhotometricInterpretation", "MONOCHROME2") != "MONOCHROME2":
        raise Unprocessable(f"{name} is {dataset.PhotometricInterpretation}; expected MONOCHROME2")
    if dataset.BitsAllocated not in (8, 16, 32):
        raise Unprocessable(
            f"{name} has {dataset.BitsAllocated} bits a pixel; expected 8, 16 or 32"
        )
    spacing = [float(s) for s in dataset.PixelSpacing]
    if len(spacing) != 2 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise Unprocessable(f"{name} has the pixel spacing {spacing} mm; expected positive numbers")


def _sorted(slices: list[Slice]) -> list[Slice]:
    if not slices:
        raise UnsupportedFormat("a zip without files; expected the slices of one DICOM series")
    for tag, what in ALIKE.items():
        first, *others = [s for s in slices if s.header.get(tag) not in (None, "")] or slices[:1]
        for other in others:
            mine, its = first.header[tag].value, other.header[tag].value
            if mine != its:
                shown = tag if tag == "PatientID" else f"{tag} {its} and {mine}"
                raise BadInput(
                    f"{other.name} is {what} than {first.name}: {shown}; expected one series"
                )
    first = slices[0]
    if (
        len({s.file for s in slices if s.whole is not None}) + any(s.whole is None for s in slices)
        > 1
    ):
        raise Unprocessable(
            "several enhanced objects, or one among single slices; expected one series: slices of "
            "one frame each, or one enhanced object"
        )
    for other in slices[1:]:
        for tag, what in (
            ("ImageOrientationPatient", "lies in another orientation"),
            ("PixelSpacing", "has another pixel spacing"),
        ):
            a, b = (np.array(s.header[tag].value, np.float64) for s in (first, other))
            if not np.allclose(a, b, rtol=0, atol=SAME):
                raise BadInput(f"{other.name} {what} than {first.name}: {b.tolist()}, {a.tolist()}")
    return sorted(slices, key=lambda piece: piece.place)


def _geometry(slices: list[Slice]) -> Geometry:
    first = slices[0].header
    cosines = np.array(first.ImageOrientationPatient, np.float64)
    step, distance = _step(slices, np.cross(cosines[:3], cosines[3:]))
    row_mm, column_mm = (float(s) for s in first.PixelSpacing)
    directions = np.stack([cosines[:3], cosines[3:], step], axis=1)
    spacing = np.array([column_mm, row_mm, distance])
    origin = np.array(first.ImagePositionPatient, np.float64)
    shape = len(slices), int(first.Rows), int(first.Columns)
    return checked(shape, (distance, row_mm, column_mm), from_lps(directions, spacing, origin))


def _step(slices: list[Slice], normal: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The direction from slice to slice, and mm between them.

    Raises:
        BadInput: a slice is missing or there twice.
        Unprocessable: the slices shift sideways.
    """
    if len(slices) == 1:
        between = (_number(slices[0].name, slices[0].header, tag, 0) for tag in DISTANCES)
        return normal, next(filter(None, between), 1.0)
    gaps = np.diff([piece.place for piece in slices])
    usual = float(np.median(gaps))
    for i, gap in enumerate(gaps):
        a, b = slices[i].name, slices[i + 1].name
        if gap < SAME:
            raise BadInput(f"{a} and {b} lie at the same place: expected each slice once")
        if gap > usual * 1.5:
            raise BadInput(
                f"slices are missing between {a} and {b}: {gap:g} mm apart, the others {usual:g}"
            )
    _check_even(slices)
    first, last = (np.array(slices[i].header.ImagePositionPatient, np.float64) for i in (0, -1))
    way = last - first
    aside = float(np.linalg.norm(way - (way @ normal) * normal))
    if aside > TILT_MM:
        raise Unprocessable(
            f"the slices shift sideways by {aside:.2f} mm from first to last (a tilted gantry); "
            "expected an upright stack: straighten the series first, as dcm2niix does"
        )
    return normal, float(way @ normal) / (len(slices) - 1)


DISTANCES = ("SpacingBetweenSlices", "SliceThickness")


def _number(name: str, header: Any, tag: str, usual: float) -> float:
    """A tag's number; the usual one where it is not there or empty."""
    try:
        value = header.get(tag)
        return usual if value in (None, "") else float(value)
    except (TypeError, ValueError, ArithmeticError) as e:
        raise BadInput(f"{name} has a {tag} that is no number ({e})") from None


def _check_even(slices: list[Slice]) -> None:
    places = np.array([piece.place for piece in slices])
    step = (places[-1] - places[0]) / (len(places) - 1)
    off = np.abs(places - (places[0] + step * np.arange(len(places))))
    worst = int(off.argmax())
    if off[worst] > EVEN * step + SAME:
        raise BadInput(
            f"the slices are unevenly spaced: {slices[worst].name} lies {off[worst]:.3g} mm from "
            f"where {step:g} mm between slices would have it"
        )


def _pixels(piece: Slice, files: Files, held: dict[str, Any]) -> tuple[NDArray[Any], Any]:
    """A slice's stored values and their scaling; ``held`` keeps the file that was read last."""
    if piece.file not in held:
        held.clear()
        held[piece.file] = _dataset(piece.file, _with_preamble(files.read(piece.file)), pixels=True)
    dataset = held[piece.file]
    frames = dicom_frames.count(dataset)
    claimed = frames * int(dataset.Rows) * int(dataset.Columns) * dataset.BitsAllocated // 8
    came = len(dataset.get("PixelData") or b"")
    if "PixelData" not in dataset or (
        came < claimed and not dataset.file_meta.TransferSyntaxUID.is_compressed
    ):
        raise BadInput(f"{piece.name} is truncated: {came:,} of {claimed:,} bytes of pixels came")
    if dataset.file_meta.TransferSyntaxUID in JPEG_LS:
        _check_jpeg_ls(piece, dataset)
    from pydicom.pixels.utils import pixel_array

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = np.asarray(pixel_array(dataset, index=piece.frame))
    except Exception as e:  # pydicom raises many types for damaged pixels
        raise BadInput(f"{piece.name} has pixels that cannot be read ({e})") from None
    slope = _number(piece.name, piece.header, "RescaleSlope", 1)
    intercept = _number(piece.name, piece.header, "RescaleIntercept", 0)
    if (slope, intercept) == (1, 0):
        return pixels, None
    return pixels, lambda values: values * slope + intercept


def _check_jpeg_ls(piece: Slice, dataset: Any) -> None:
    """Holds the size in the compressed frame against the header's, before anything is decoded.

    Raises:
        BadInput: they differ, or there is no such frame.
    """
    from pydicom.encaps import get_frame

    try:
        count = dicom_frames.count(dataset)
        whole = get_frame(dataset.PixelData, piece.frame, number_of_frames=count)
        frame = bytes(whole[: 1 << 16])
        at = 2  # after the marker that begins a picture
        while frame[at : at + 2] != b"\xff\xf7":
            at += 2 + max(2, struct.unpack_from(">H", frame, at + 2)[0])
        bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, at + 4)
    except Exception as e:  # pydicom raises many types for damaged frames
        raise BadInput(f"{piece.name} has no JPEG-LS frame that can be read ({e})") from None
    if (rows, columns, samples) != (
        dataset.Rows,
        dataset.Columns,
        1,
    ) or bits > dataset.BitsAllocated:
        raise BadInput(
            f"{piece.name} has a JPEG-LS frame of {columns}x{rows} pixels, {samples} samples of "
            f"{bits} bits; its header says {dataset.Columns}x{dataset.Rows}, 1 of "
            f"{dataset.BitsAllocated}"
        )
