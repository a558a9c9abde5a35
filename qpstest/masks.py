"""Volumes as requests and masks as answers: what they are, and whether a mask is a right one."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handlers.errors import ItemError
from handlers.volumes import reading
from handlers.volumes.geometry import Geometry, Layout, Volume

SUFFIXES = (".nii", ".nii.gz", ".mha", ".nrrd", ".zip")
"""Names of the files that a segmentation model takes; a zip holds a DICOM series."""
GZIP = "application/gzip"
"""Media type of a mask: a packed NIfTI file."""


def is_volume(path: Path) -> bool:
    """Whether a file's name is that of a volume."""
    return path.name.lower().endswith(SUFFIXES)


class _Seen(Exception):
    """Ends the reading of a volume once its header is known."""

    def __init__(self, geometry: Geometry):
        super().__init__("the header is known")
        self.geometry = geometry


def _stop(layout: Layout) -> None:
    raise _Seen(layout.geometry)


def grid(data: bytes) -> Geometry | None:
    """The grid that a volume's header gives; None where the kit's readers refuse it."""
    try:
        reading.read(data, _stop)
    except _Seen as seen:
        return seen.geometry
    except ItemError:
        return None
    return None


def what_is_wrong(answer: bytes, request: bytes) -> str | None:
    """None for a whole NIfTI mask on the request's own grid, else one line about what came."""
    asked = grid(request)
    if asked is None:
        return None  # no volume that the readers know: there is no grid to compare with
    try:
        gzip.decompress(answer)  # to the end, where its checksum is
    except (OSError, EOFError, zlib.error) as e:
        return f"no gzip file ({len(answer)} bytes, {e})"
    found = grid(answer)
    if found is None:
        return f"no NIfTI mask ({len(answer)} bytes)"
    if not found.same_grid(asked):
        shapes = ("x".join(map(str, reversed(g.shape))) for g in (found, asked))
        return "a mask of {} voxels on another grid than the scan's {}".format(*shapes)
    return None


def volume(data: bytes) -> Volume:
    """A volume with its voxels, whatever its size; raises ``ItemError``."""
    return reading.read(data, lambda layout: None)


def dice(a: NDArray[np.integer], b: NDArray[np.integer], value: int) -> float:
    """Dice's coefficient of the voxels with ``value``: 1 where neither mask has any."""
    first, second = a == value, b == value
    both = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / both if both else 1.0
