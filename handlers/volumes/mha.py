"""MetaImage in one file (.mha)."""

from __future__ import annotations

import re

import numpy as np

from handlers.errors import BadInput, UnsupportedFormat
from handlers.volumes import headers
from handlers.volumes.bounds import Buffer, Stream
from handlers.volumes.geometry import Admit, Geometry, Layout, Volume, checked, from_lps
from handlers.volumes.voxels import read_voxels

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
START = re.compile(rb"\s*(ObjectType|NDims|Comment)\s*=")


def read(data: Buffer, admit: Admit) -> Volume:
    """Reads one volume.

    Returns:
        data ``[channels, z, y, x]``, channels from a fourth axis or from several values a voxel.

    Raises:
        BadInput: truncated, damaged, or a header that lies about its data.
        UnsupportedFormat: data in another file, or as text.
        Unprocessable: another rank or type, spacing not positive, NaN or infinity.
        ItemError: whatever ``admit`` raises.
    """
    fields, end = _fields(data)
    if fields.get("BinaryData", "True").lower() != "true":
        raise UnsupportedFormat("an MHA with its voxels as text; save it as binary")
    rank = headers.rank_of(fields.get("NDims", ""), "MHA")
    dims = headers.sizes(fields, "DimSize", rank, "MHA")
    interleaved = headers.sizes({"ElementNumberOfChannels": "1", **fields}, *CHANNELS)[0]
    x, y, z, stacked = [*dims, *[1] * (4 - rank)]
    big = any(fields.get(n, "").lower() == "true" for n in ENDIAN)
    stored = headers.element(TYPES, fields.get("ElementType", ""), big, "MHA")
    geometry = _geometry(fields, rank, (z, y, x))
    layout = Layout("MHA", geometry, stored, stacked * interleaved)
    admit(layout)
    packed = fields.get("CompressedData", "").lower() == "true"
    stream = Stream(memoryview(data)[end:], "MHA", packed)
    return Volume(read_voxels(stream, layout, None, interleaved > 1), geometry, "MHA")


CHANNELS = ("ElementNumberOfChannels", 1, "MHA")
ENDIAN = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")


def _fields(data: Buffer) -> tuple[dict[str, str], int]:
    """The header's fields, and where the voxels begin."""
    head = bytes(data[: headers.MAX_HEADER])
    fields: dict[str, str] = {}
    at = 0
    while (line_end := head.find(b"\n", at)) >= 0:
        name, equals, value = head[at:line_end].decode("latin-1").partition("=")
        at = line_end + 1
        if not equals:
            break
        fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            if value.strip().upper() != "LOCAL":
                raise UnsupportedFormat("a MetaImage whose data is in another file; send one .mha")
            return fields, at
    raise BadInput("the MHA header has no end (ElementDataFile = LOCAL): truncated")


def _geometry(fields: dict[str, str], rank: int, shape: tuple[int, int, int]) -> Geometry:
    """Each row of TransformMatrix is one axis' direction, in LPS."""
    spacing = np.ones(4)
    named = next((n for n in ("ElementSpacing", "ElementSize") if n in fields), "")
    if named:
        spacing[:rank] = headers.numbers(fields, named, rank, "MHA")
    rows, origin = np.eye(4), np.zeros(4)
    for name in ("TransformMatrix", "Rotation", "Orientation"):
        if name in fields:
            given = headers.numbers(fields, name, rank * rank, "MHA")
            rows[:rank, :rank] = given.reshape(rank, rank)
            break
    for name in ("Offset", "Position", "Origin"):
        if name in fields:
            origin[:rank] = headers.numbers(fields, name, rank, "MHA")
            break
    affine = from_lps(rows[:3, :3].T, spacing[:3], origin[:3])
    return checked(shape, (spacing[2], spacing[1], spacing[0]), affine)
