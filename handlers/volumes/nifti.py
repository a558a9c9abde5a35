"""NIfTI-1 and NIfTI-2 in one file (.nii, .nii.gz)."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import BadInput, Unprocessable, UnsupportedFormat
from handlers.volumes.bounds import Buffer, Stream, is_gzip
from handlers.volumes.geometry import Admit, Geometry, Layout, Volume, checked
from handlers.volumes.voxels import read_voxels
from handlers.windows import Pool

SIZES = {348: 1, 540: 2}
"""Length of the header, which is its own first field: the version."""

UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""NIfTI's code of the unit of space (unknown, metre, mm, micrometre): mm in one."""

KINDS = "iuf"
LEVEL = 1
"""zlib's fastest level: masks are long runs, and shrink to a hundredth with any."""

PLANES = 16
"""Planes of a mask that are packed together."""

GZIP_START = b"\x1f\x8b\x08" + bytes(5) + b"\x04\xff"
"""RFC 1952: deflate, no name, no time, fastest, from an unknown system."""


def version(start: Buffer) -> tuple[int, str] | None:
    """1 or 2, and "<" or ">" for the byte order, where a NIfTI header begins here; else None."""
    for order in "<>":
        if len(start) >= 4 and (size := struct.unpack(order + "i", start[:4])[0]) in SIZES:
            return SIZES[size], order
    return None


def read(data: Buffer, admit: Admit) -> Volume:
    """Reads one volume, its scaling applied.

    Returns:
        data ``[channels, z, y, x]``, channels from a fourth axis; ``origin`` is nibabel's header.

    Raises:
        BadInput: truncated, damaged, or a header that lies about its data.
        UnsupportedFormat: header and data in two files.
        Unprocessable: another rank or type than a volume of numbers has, spacing not positive,
            NaN or infinity.
        ItemError: whatever ``admit`` raises.
    """
    stream = Stream(data, "NIfTI", is_gzip(data))
    start = stream.read(348)
    found = version(start)
    if found is None:
        raise UnsupportedFormat("gzip of something that is no NIfTI; expected a .nii inside")
    if found[0] == 2:
        start += stream.read(540 - 348)
    header = _header(start, *found)
    layout = _layout(header)
    admit(layout)
    skipped = int(header["vox_offset"]) - len(start)
    stream.claim(max(0, skipped))
    for _ in range(max(0, skipped) // 4096):
        stream.read(4096)
    stream.read(max(0, skipped) % 4096)
    values = read_voxels(stream, layout, _scaling(header))
    return Volume(values, layout.geometry, "NIfTI", header)


def _header(start: bytes, found: int, order: str) -> Any:
    import nibabel as nib

    kind: Any = nib.Nifti1Header if found == 1 else nib.Nifti2Header
    header = kind(start, order, check=False)
    magic = bytes(header["magic"].tobytes())
    if magic[:2] == b"ni":
        raise UnsupportedFormat("a NIfTI header whose data is in another file; send one .nii")
    if magic[:2] != b"n+":
        raise UnsupportedFormat("an Analyze 7.5 header; expected NIfTI (magic n+1 or n+2)")
    offset = float(header["vox_offset"])
    if not (np.isfinite(offset) and len(start) <= offset < 1 << 40):
        raise BadInput(f"the NIfTI header says its data begins at {offset:g}: the header lies")
    return header


def _layout(header: Any) -> Layout:
    import nibabel as nib

    rank = int(header["dim"][0])
    if not 1 <= rank <= 7:
        raise BadInput(f"the NIfTI header claims {rank} axes; expected 1 to 7")
    dims = [int(n) for n in header["dim"][1 : rank + 1]]
    if min(dims) < 0:
        raise BadInput(f"the NIfTI header claims the size {dims}: the header lies")
    while len(dims) > 3 and dims[-1] == 1:
        dims.pop()
    if not 2 <= len(dims) <= 4:
        raise Unprocessable(f"a NIfTI of size {dims} came; expected 3 axes, or channels as fourth")
    x, y, z, channels = [*dims, *[1] * (4 - len(dims))]
    code = int(header["datatype"])
    try:
        known: Any = nib.nifti1.data_type_codes.dtype[code]
        stored = np.dtype(known).newbyteorder(header.endianness)
    except KeyError:
        raise BadInput(f"the NIfTI header has the unknown data type {code}") from None
    if stored.kind not in KINDS or stored.itemsize > 8 or code == 1:
        name = nib.nifti1.data_type_codes.label[code]
        raise Unprocessable(f"a NIfTI of {name} came; expected whole or floating numbers")
    if channels < 1:
        raise Unprocessable(f"a NIfTI of size {dims} came; expected at least one value a voxel")
    return Layout("NIfTI", _geometry(header, (z, y, x)), stored, channels)


def _geometry(header: Any, shape: tuple[int, int, int]) -> Geometry:
    """Spacing from pixdim, as nnU-Net and ITK take it; the affine from sform, then qform."""
    units = UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    x, y, z = (float(s) * units for s in header["pixdim"][1:4])
    if int(header["dim"][0]) == 2:
        z = units
    checked(shape, (z, y, x), np.diag([x, y, z, 1.0]))
    from nibabel.spatialimages import HeaderDataError

    try:
        affine = np.array(header.get_best_affine(), np.float64)
    except (HeaderDataError, ValueError) as e:
        raise Unprocessable(f"the NIfTI header's qform cannot be read ({e})") from None
    affine[:3] *= units
    return checked(shape, (z, y, x), affine)


def _scaling(header: Any) -> Any:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope) or (slope, intercept) == (1, 0):
        return None
    if not np.isfinite([slope, intercept]).all():
        raise Unprocessable(f"NIfTI scaling {slope:g} and {intercept:g} came; expected numbers")
    return lambda values: values * slope + intercept


def write(mask: NDArray[Any], volume: Volume, note: str, pool: Pool | None = None) -> bytes:
    """A mask as ``.nii.gz``.

    Args:
        mask: ``[z, y, x]`` uint8 or uint16.
        volume: what it was made from. Of a NIfTI, sform, qform, their codes, pixdim and units are
            taken as they are; of another format, both forms are made from the affine.
        note: the header's description; cut to 79 bytes.
        pool: threads that pack planes side by side; the bytes are the same without.
    """
    import nibabel as nib

    source = volume.origin if volume.format == "NIfTI" else None
    header = type(source)(endianness="<") if source is not None else nib.Nifti1Header()
    header.set_data_dtype(mask.dtype)
    z, y, x = mask.shape
    if isinstance(header, nib.Nifti1Header) and max(mask.shape) > 32767:
        raise Unprocessable(f"size {x}x{y}x{z} does not fit NIfTI-1: send NIfTI-2")
    header.set_data_shape((x, y, z))
    if source is None:
        header.set_sform(volume.geometry.affine, code=1)
        header.set_qform(volume.geometry.affine, code=1)
        header["pixdim"][1:4] = volume.geometry.spacing[::-1]
        header.set_xyzt_units("mm")
    else:
        _copy_place(source, header)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = len(header.binaryblock) + 4
    header["descrip"] = note.encode("ascii", "replace")[:79]
    header["magic"] = b"n+2\0\r\n\x1a\n" if len(header.binaryblock) == 540 else b"n+1"
    little = np.dtype(mask.dtype).newbyteorder("<")
    return pack(header.binaryblock + bytes(4), np.asarray(mask, little), pool)


def pack(start: bytes, voxels: NDArray[Any], pool: Pool | None) -> bytes:
    """One gzip member of the header and of ``[z, y, x]`` voxels, their blocks packed side by side.

    A block ends on a whole byte (deflate's "sync flush"), so the next one can follow it.
    """

    def deflate(data: bytes, last: bool = False) -> bytes:
        packer = zlib.compressobj(LEVEL, wbits=-15)
        whole = packer.compress(data)
        return whole + packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)

    def packed(first: int) -> bytes:
        return deflate(voxels[first : first + PLANES].tobytes())

    begins = range(0, len(voxels), PLANES)
    parts = list(pool.executor.map(packed, begins) if pool else map(packed, begins))
    check = zlib.crc32(start)
    for first in begins:
        check = zlib.crc32(voxels[first : first + PLANES].tobytes(), check)
    size = (len(start) + voxels.nbytes) & 0xFFFFFFFF
    end = struct.pack("<II", check, size)
    return b"".join([GZIP_START, deflate(start), *parts, deflate(b"", last=True), end])


FORMS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def _copy_place(source: Any, header: Any) -> None:
    for name in FORMS:
        header[name] = source[name]
    header["pixdim"][:4] = source["pixdim"][:4]
    header["xyzt_units"] = int(source["xyzt_units"]) & 7
