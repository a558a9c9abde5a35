"""Where the voxels of a volume lie in the patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import Unprocessable

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM, MHA and most NRRD files count to the patient's left and back; NIfTI right and front."""

SAME_GRID_MM = 1e-2
"""How far the corners of two channels may lie apart."""


@dataclass(frozen=True)
class Geometry:
    """The grid of one volume.

    Attributes:
        shape: voxels along z, y, x, the order of the array.
        spacing: mm along z, y, x.
        affine: ``[4, 4]`` float64, voxel (x, y, z) to mm, to the patient's right, front and head.
    """

    shape: Shape
    spacing: Spacing
    affine: NDArray[np.float64]

    @property
    def voxels(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return self.spacing[0] * self.spacing[1] * self.spacing[2] / 1000

    def corners(self) -> NDArray[np.float64]:
        """``[8, 3]`` mm: the centres of the eight corner voxels."""
        z, y, x = (n - 1 for n in self.shape)
        grid = [(i, j, k, 1) for i in (0, x) for j in (0, y) for k in (0, z)]
        placed = np.array(grid, np.float64) @ self.affine.T
        return np.asarray(placed[:, :3])

    def same_grid(self, other: Geometry) -> bool:
        """Whether the voxels of both lie at the same places."""
        apart = np.abs(self.corners() - other.corners()).max()
        return self.shape == other.shape and bool(apart < SAME_GRID_MM)


@dataclass(frozen=True)
class Layout:
    """What a volume's header promises, before any voxel is read.

    Attributes:
        format: "NIfTI", "MHA", "NRRD" or "DICOM".
        stored: element type in the file.
        channels: values per voxel.
    """

    format: str
    geometry: Geometry
    stored: np.dtype[Any]
    channels: int = 1

    @property
    def stored_bytes(self) -> int:
        return self.geometry.voxels * self.channels * self.stored.itemsize


Admit = Callable[[Layout], None]
"""Refuses a volume by its header, before memory is taken for it; raises ``ItemError``."""


@dataclass
class Volume:
    """A volume that was read.

    Attributes:
        data: ``[channels, z, y, x]`` float32, finite.
        format: as in ``Layout``.
        origin: what the answer's header is made from: the NIfTI header, or the DICOM series'
            datasets without pixels in the order of z, or the one that holds all frames.
        left_out: files that came along and are no part of it.
        frames: of a DICOM file that holds all slices, which of its frames each is.
        channels: where each came as a file of its own, the channel's name and the form field's.
    """

    data: NDArray[np.float32]
    geometry: Geometry
    format: str
    origin: Any = field(default=None, repr=False)
    left_out: tuple[str, ...] = ()
    channels: tuple[tuple[str, str], ...] = ()
    frames: tuple[int, ...] = ()


def checked(shape: tuple[int, ...], spacing: Spacing, affine: NDArray[Any]) -> Geometry:
    """A geometry whose numbers make sense.

    Raises:
        Unprocessable: no voxels; a spacing that is not a positive number of mm; an affine that is
            not finite or flattens the volume.
    """
    z, y, x = shape
    if min(z, y, x) < 1:
        raise Unprocessable(f"size {x}x{y}x{z} (x, y, z) came; expected at least one voxel an axis")
    if not all(np.isfinite(s) and s > 0 for s in spacing):
        shown = ", ".join(f"{float(s):g}" for s in reversed(spacing))
        raise Unprocessable(f"spacing {shown} mm (x, y, z) came; expected positive numbers")
    matrix = np.array(affine, np.float64)
    with np.errstate(all="ignore"):
        volume = abs(np.linalg.det(matrix[:3, :3])) if np.isfinite(matrix).all() else 0.0
    if not volume > 1e-6 * spacing[0] * spacing[1] * spacing[2]:
        raise Unprocessable(
            "the header's affine is not finite or lies in a plane; expected three independent axes"
        )
    z_mm, y_mm, x_mm = (float(s) for s in spacing)
    return Geometry((int(z), int(y), int(x)), (z_mm, y_mm, x_mm), matrix)


def from_lps(directions: NDArray[Any], spacing_xyz: NDArray[Any], origin: Any) -> NDArray[Any]:
    """The affine of a grid given as ITK has it.

    Args:
        directions: ``[3, 3]``, column i the direction of axis i (x, y, z) in LPS.
        spacing_xyz: mm along x, y, z.
        origin: LPS mm of the first voxel.
    """
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, np.float64) * np.asarray(spacing_xyz, np.float64)
    affine[:3, 3] = origin
    return np.asarray(LPS_TO_RAS @ affine)
