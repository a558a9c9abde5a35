"""Where a bundle's Spacingd puts its voxels, and the way back: voxel for voxel as MONAI."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handlers import resampling
from handlers.errors import Unprocessable
from handlers.volumes import preparing, reading, recipe
from tests.support import volumes

LINEAR = {"order": 1, "order_z": 0, "separate_z": False}


@pytest.fixture(scope="module")
def monai() -> Any:
    """MONAI, imported when the first test needs it: that takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its optional packages
        pytest.importorskip("monai.transforms")
        return pytest.importorskip("monai")


def prepared(body: bytes, spacing: list[float]) -> preparing.Prepared:
    settings = volumes.settings(
        framework="monai",
        orientation="RAS",
        spacing=spacing,
        transpose_forward=[2, 1, 0],
        resampling={"data": LINEAR, "logits": LINEAR},
        monai={"order": ["orientation", "spacing"], "invert_at": "softmax", "crop": None},
    )
    made = recipe.read(settings, volumes.LABELS, volumes.passport(settings).outputs)
    return preparing.prepare(reading.read(body, lambda layout: None), made)


def placed(turn: list[float], mm: list[float], axes: list[int] | None = None) -> NDArray[Any]:
    """An affine, turned by a rotation vector; some axes flipped and two exchanged."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(turn).as_matrix() @ np.diag(mm)
    affine[:3, :3] = affine[:3, axes or [0, 1, 2]]
    affine[:3, 3] = (-31.5, 12.25, 80.1)
    return affine


OBLIQUE = placed([0.3, -0.2, 0.25], [0.9, 1.2, 2.7])


@pytest.mark.parametrize(
    ("affine", "spacing", "first"),
    [
        (placed([0, 0, 0], [-0.9, -1.2, 2.7]), [1.5, 1.5, 2.0], "corner"),
        (OBLIQUE, [1.5, 1.5, 2.0], "centre"),
        (placed([-0.4, 0.1, 0.2], [-1.1, 0.8, -2], [1, 2, 0]), [0.7, 1.5, 1.0], "centre"),
        (OBLIQUE, [0.92, 1.23, 2.8], "centre"),
        (OBLIQUE, [0.9004, 1.2, 2.6997], "corner"),
    ],
    ids=["upright", "oblique", "exchanged", "hardly", "as it is"],
)
def test_voxels_lie_where_monai_puts_them(
    monai: Any, affine: NDArray[Any], spacing: list[float], first: str
) -> None:
    voxels = volumes.scan((13, 21, 17))
    body = volumes.nifti(voxels, affine)
    stored = reading.read(body, lambda layout: None).geometry.affine
    scan = monai.data.MetaTensor(voxels.T[None].copy(), affine=stored)
    spaced = monai.transforms.Spacing(spacing, mode="bilinear", padding_mode="border")
    expected = spaced(monai.transforms.Orientation("RAS", labels=None)(scan))
    found = prepared(body, spacing)
    assert any(found.back.first) == (first == "centre")
    np.testing.assert_allclose(found.data, np.asarray(expected), atol=2e-5)
    back = resampling.resample(found.data[0].copy(), found.back, 1, 0, False)
    np.testing.assert_allclose(back, np.asarray(spaced.inverse(expected))[0], atol=2e-5)


def test_axes_far_from_right_angles_are_refused() -> None:
    with pytest.raises(Unprocessable, match="axes are not at right angles"):
        prepared(volumes.nifti(volumes.scan()), [1.5, 1.5, 2.0])
