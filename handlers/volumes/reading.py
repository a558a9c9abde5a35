"""The way in: a request's files, one or one per channel, to one volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from handlers.errors import BadInput, ItemError, Unprocessable, UnsupportedFormat
from handlers.volumes import dicom, mha, nifti, nrrd
from handlers.volumes.bounds import Buffer, is_gzip
from handlers.volumes.geometry import Admit, Layout, Volume

EXPECTED = "expected NIfTI (.nii, .nii.gz), MHA, NRRD, or a zip of one DICOM series"


def read(data: Buffer, admit: Admit) -> Volume:
    """One file to one volume; its format is told by its content.

    Raises:
        UnsupportedFormat: none of the formats.
        ItemError: whatever its format's module or ``admit`` raises.
    """
    if not data:
        raise BadInput(f"0 bytes came; {EXPECTED}")
    start = bytes(data[:540])
    if start.startswith(b"PK\x03\x04") or start.startswith(b"PK\x05\x06"):
        return dicom.read(data, admit)
    if is_gzip(data) or nifti.version(start) is not None:
        return nifti.read(data, admit)
    if start.startswith(b"NRRD000"):
        return nrrd.read(data, admit)
    if mha.START.match(start):
        return mha.read(data, admit)
    if dicom.is_dicom(start):
        raise UnsupportedFormat("one DICOM file; expected a zip of the whole series")
    raise UnsupportedFormat(f"{len(data):,} bytes of an unknown format; {EXPECTED}")


def read_channels(
    parts: Sequence[tuple[str, Buffer]], names: Sequence[str], admit: Admit
) -> Volume:
    """Several files, one a channel, to one volume.

    Args:
        parts: each form field's name and file. The names are those of the channels, in any case,
            or their numbers.
        names: the model's channels.
        admit: asked once per file, with all channels in its layout.

    Raises:
        Unprocessable: another number of files, other names, or files that do not lie on the same
            grid.
        ItemError: as ``read``, with the field's name.
    """
    if len(parts) != len(names):
        raise Unprocessable(
            f"{len(parts)} files came ({', '.join(n for n, _ in parts)}); "
            f"expected {len(names)}: {', '.join(names)}"
        )
    whole: Volume | None = None
    ordered = _in_order(parts, names)
    left_out: list[str] = []
    for c, (field, data) in enumerate(ordered):
        try:
            volume = read(data, lambda layout: admit(_with_all(layout, len(names))))
        except ItemError as e:
            raise type(e)(f"field {field}: {e}") from None
        left_out += volume.left_out
        if whole is None:
            stack = np.empty((len(names), *volume.geometry.shape), np.float32)
            told = tuple(zip(names, (f for f, _ in ordered), strict=True))
            whole = replace(volume, data=stack, channels=told)
        elif not whole.geometry.same_grid(volume.geometry):
            raise Unprocessable(
                f"field {field}: another grid than the first field's (size {volume.geometry.shape} "
                f"and {whole.geometry.shape} along z, y, x, or another place); expected the same"
            )
        whole.data[c] = volume.data[0]
    assert whole is not None  # noqa: S101
    whole.left_out = tuple(left_out)
    return whole


def _with_all(layout: Layout, channels: int) -> Layout:
    if layout.channels != 1:
        raise Unprocessable(f"{layout.channels} values a voxel came; expected 1 in each field")
    return Layout(layout.format, layout.geometry, layout.stored, channels)


def _in_order(
    parts: Sequence[tuple[str, Buffer]], names: Sequence[str]
) -> Sequence[tuple[str, Buffer]]:
    given = {field.lower(): (field, data) for field, data in parts}
    if len(given) == len(parts):
        wanted = [name.lower() for name in names]
        numbers = {int(f): given[f] for f in given if f.isdecimal() and len(f) < 9}
        if set(wanted) == set(given):
            return [given[name] for name in wanted]
        if sorted(numbers) == list(range(len(parts))):
            return [numbers[i] for i in range(len(parts))]
    raise Unprocessable(
        f"fields {', '.join(field for field, _ in parts)} came; expected {', '.join(names)}, or "
        "their numbers from 0 on: which file is which channel cannot be guessed"
    )
