"""NRRD in one file (.nrrd)."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from handlers.errors import BadInput, Unprocessable, UnsupportedFormat
from handlers.volumes import headers
from handlers.volumes.bounds import Buffer, Stream
from handlers.volumes.geometry import LPS_TO_RAS, Admit, Geometry, Layout, Volume, checked
from handlers.volumes.voxels import read_voxels

ALIASES = {
    "i1": "signed char/int8/int8_t",
    "u1": "uchar/unsigned char/uint8/uint8_t",
    "i2": "short/short int/signed short/signed short int/int16/int16_t",
    "u2": "ushort/unsigned short/unsigned short int/uint16/uint16_t",
    "i4": "int/signed int/int32/int32_t",
    "u4": "uint/unsigned int/uint32/uint32_t",
    "i8": "longlong/long long/long long int/signed long long/signed long long int/int64/int64_t",
    "u8": "ulonglong/unsigned long long/unsigned long long int/uint64/uint64_t",
    "f4": "float",
    "f8": "double",
}
TYPES = {name: code for code, names in ALIASES.items() for name in names.split("/")}

TO_RAS = {
    "left-posterior-superior": LPS_TO_RAS,
    "lps": LPS_TO_RAS,
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "": LPS_TO_RAS,
}
"""From the file's space to NIfTI's; without a name, LPS as in ITK."""


def read(data: Buffer, admit: Admit) -> Volume:
    """Reads one volume.

    Returns:
        data ``[channels, z, y, x]``; an axis without a direction in space is that of the channels.

    Raises:
        BadInput: truncated, damaged, or a header that lies about its data.
        UnsupportedFormat: data in another file, or an encoding other than raw and gzip.
        Unprocessable: another rank, type or unit, spacing not positive, NaN or infinity.
        ItemError: whatever ``admit`` raises.
    """
    fields, end = _fields(data)
    if "data file" in fields or "datafile" in fields:
        raise UnsupportedFormat("a NRRD whose data is in another file; send one .nrrd")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise UnsupportedFormat(f"a NRRD encoded as {encoding[:20]!r}; expected raw or gzip")
    if any(fields.get(n, "0") != "0" for n in ("byte skip", "byteskip", "line skip", "lineskip")):
        raise UnsupportedFormat("a NRRD that skips bytes or lines before its data")
    rank = headers.rank_of(fields.get("dimension", ""), "NRRD")
    dims = headers.sizes(fields, "sizes", rank, "NRRD")
    vectors = _vectors(fields, rank)
    channel = next((i for i, v in enumerate(vectors) if v is None), None)
    if rank - (channel is not None) > 3 or channel not in (None, 0, rank - 1):
        raise Unprocessable(f"a NRRD of size {dims} came; expected 3 axes and one of channels")
    channels = 1 if channel is None else dims.pop(channel)
    x, y, z = [*dims, 1][:3]
    name = fields.get("type", "").lower()
    stored = headers.element(TYPES, name, fields.get("endian", "little") == "big", "NRRD")
    geometry = _geometry(fields, [v for v in vectors if v is not None], (z, y, x))
    layout = Layout("NRRD", geometry, stored, channels)
    admit(layout)
    stream = Stream(memoryview(data)[end:], "NRRD", encoding != "raw")
    return Volume(read_voxels(stream, layout, None, channel == 0), geometry, "NRRD")


def _fields(data: Buffer) -> tuple[dict[str, str], int]:
    """The header's fields, in lower case, and where the voxels begin."""
    head = bytes(data[: headers.MAX_HEADER])
    found = re.search(rb"\r?\n\r?\n", head)
    if found is None:
        raise BadInput("the NRRD header has no end (an empty line): truncated")
    fields: dict[str, str] = {}
    for line in head[: found.start()].decode("latin-1").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            fields[name.strip().lower()] = value.removeprefix("=").strip()
    return fields, found.end()


def _vectors(fields: dict[str, str], rank: int) -> list[NDArray[np.float64] | None]:
    """Each axis' step in the file's space, mm; None for an axis without one (channels)."""
    text = fields.get("space directions")
    if text is None:
        words = fields.get("spacings", "1 " * rank).split()
        if len(words) != rank:
            raise BadInput(f"the NRRD header's 'spacings' has {len(words)} entries for {rank} axes")
        plain = [w.lower() not in ("nan", "none") for w in words]
        steps = iter(np.eye(3))
        if sum(plain) > 3:
            raise Unprocessable("a NRRD of 4 axes in space came; expected 3, and one of channels")
        return [_number(w) * next(steps) if p else None for w, p in zip(words, plain, strict=True)]
    words = re.findall(r"none|\([^)]*\)", text.lower())
    if len(words) != rank:
        raise BadInput(
            f"the NRRD header's 'space directions' has {len(words)} entries for {rank} axes"
        )
    return [None if word == "none" else _point(word) for word in words]


def _geometry(
    fields: dict[str, str], vectors: list[NDArray[np.float64]], shape: tuple[int, int, int]
) -> Geometry:
    space = fields.get("space", "").lower()
    if space not in TO_RAS:
        raise Unprocessable(f"a NRRD in the space {space[:40]!r} came; expected LPS, RAS or LAS")
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) - {"mm", ""}
    if units:
        raise Unprocessable(f"a NRRD in {', '.join(sorted(units))[:40]} came; expected mm")
    if len(vectors) == 2:
        vectors = [*vectors, np.array([0.0, 0.0, 1.0])]
    affine = np.eye(4)
    affine[:3, :3] = np.stack(vectors, axis=1)
    affine[:3, 3] = _point(fields.get("space origin", "(0,0,0)"))
    x, y, z = (float(np.linalg.norm(v)) for v in vectors)
    if "space directions" not in fields:
        x, y, z = (float(v.sum()) for v in vectors)  # keeps the sign of what was given
    return checked(shape, (z, y, x), TO_RAS[space] @ affine)


def _point(text: str) -> NDArray[np.float64]:
    values = [_number(word) for word in text.strip("() ").split(",")]
    if len(values) == 2:
        values.append(0.0)
    if len(values) != 3:
        raise BadInput(f"the NRRD header has {text[:60]!r}; expected three numbers in brackets")
    return np.array(values)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"the NRRD header has {text[:40]!r}; expected a number") from None
