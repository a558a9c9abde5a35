"""The handler against the same steps done with whole arrays, as nnU-Net's own code does them."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from handlers import windows
from tests.support import volumes
from tests.support.segmenting import Array, answer, handler, mask_of, resize

EVERY = (slice(None),)


def logits(data: Array, flat: bool = False) -> Array:
    """``[channels, a, b, c]`` through the sliding window with sums for the whole volume."""
    patch = (1, 24, 20) if flat else volumes.PATCH
    net = volumes.network(len(data), flat=flat)
    w = windows.Windows(patch)
    sides = windows.padded(data.shape[1:], patch)
    pads = [
        ((s - n) // 2, s - n - (s - n) // 2) for s, n in zip(sides, data.shape[1:], strict=True)
    ]
    padded = np.pad(data, [(0, 0), *pads])
    sums, total = np.zeros((3, *sides)), np.zeros(sides)
    made = windows.Importance(w)
    weight = np.stack([made.plane(d) for d in range(patch[0])])
    begins = [windows.starts(s, p, 0.5) for s, p in zip(sides, patch, strict=True)]
    for a in begins[0]:
        for b in begins[1]:
            for c in begins[2]:
                here = (slice(a, a + patch[0]), slice(b, b + patch[1]), slice(c, c + patch[2]))
                x = torch.from_numpy(np.ascontiguousarray(padded[EVERY + here])[None])
                with torch.inference_mode():
                    y = net(x[:, :, 0] if flat else x).numpy()
                sums[EVERY + here] += (y[:, :, None] if flat else y)[0] * weight
                total[here] += weight
    inside = tuple(slice(low, low + n) for (low, _), n in zip(pads, data.shape[1:], strict=True))
    return np.asarray((sums / total)[EVERY + inside])


def agree(found: Array, expected: Array) -> None:
    """The same but for voxels where two labels are as likely to the last digit of float32."""
    assert found.shape == expected.shape
    assert len(np.unique(expected)) > 1
    assert (found != expected).mean() < 2e-4


def test_a_plain_volume() -> None:
    scan = volumes.scan()
    agree(mask_of(handler(), volumes.nifti(scan)), logits(scan[None]).argmax(0))


@pytest.mark.parametrize("shape", [(5, 40, 33), (21, 7, 9), (1, 1, 1), (3, 24, 20)])
def test_a_volume_smaller_than_the_patch(shape: tuple[int, int, int]) -> None:
    scan = volumes.scan(shape) + np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 9
    found = mask_of(handler(), volumes.nifti(scan))
    expected = logits(scan[None]).argmax(0)
    assert (found != expected).mean() < 2e-4


def test_all_that_nnunet_does_to_a_volume() -> None:
    """Transposed, cropped, CT normalised, resampled with a coarse axis, and all the way back."""
    scan = volumes.scan((14, 44, 38))
    scan[:, :5], scan[..., -6:], scan[:2] = 0, 0, 0
    affine = np.diag([0.8, 0.7, 4.0, 1])
    ct = {"kind": "ct", "lower": -9.0, "upper": 11.0, "mean": 0.5, "std": 3.0}
    order, spacing = [1, 0, 2], [1.0, 3.0, 1.2]
    made = handler(
        channels=[{"name": "CT", "normalisation": ct}],
        crop="nonzero",
        transpose_forward=order,
        spacing=spacing,
    )
    found = mask_of(made, volumes.nifti(scan, affine))

    turned = scan.transpose(order)
    before = [(4.0, 0.7, 0.8)[axis] for axis in order]
    box = tuple(slice(a.min(), a.max() + 1) for a in np.nonzero(turned))
    crop = (np.clip(turned[box], -9, 11) - 0.5) / 3
    shape = tuple(round(n * a / b) for n, a, b in zip(crop.shape, before, spacing, strict=True))
    data = sliced(crop, shape, 1, order=3)
    back = np.stack([sliced(x, crop.shape, 1, order=1) for x in logits(data[None])])
    expected = np.zeros(turned.shape, int)
    expected[box] = back.argmax(0)
    agree(found, expected.transpose(np.argsort(order)))


def sliced(values: Array, shape: tuple[int, ...], axis: int, order: int) -> Array:
    """nnU-Net's separate z: slices across ``axis`` resized one by one, then the nearest slice."""
    inner = tuple(n for i, n in enumerate(shape) if i != axis)
    stack = np.stack([resize(piece, inner, order) for piece in np.moveaxis(values, axis, 0)])
    at = len(stack) / shape[axis] * (np.arange(shape[axis]) + 0.5) - 0.5
    grid = np.meshgrid(at, *(np.arange(n) for n in inner), indexing="ij")
    near = ndimage.map_coordinates(stack, grid, order=0, mode="nearest")
    found: Array = np.moveaxis(near, 0, axis).astype(np.float32)
    return found


def test_isotropic_resampling_there_and_back() -> None:
    scan = volumes.scan((30, 40, 33))
    found = mask_of(handler(spacing=[1.3, 1.1, 0.9]), volumes.nifti(scan, np.eye(4)))
    data = resize(scan, (23, 36, 37), 3).astype(np.float32)
    back = np.stack([resize(x, scan.shape, 1) for x in logits(data[None])])
    agree(found, back.argmax(0))


def test_a_2d_network_sees_slices_and_keeps_their_distance() -> None:
    scan = volumes.scan((6, 40, 33))
    made = handler(patch=[24, 20], spacing=[1.2, 0.9])
    found = mask_of(made, volumes.nifti(scan, np.diag([1, 1, 7.0, 1])))
    data = np.stack([resize(piece, (33, 37), 3) for piece in scan]).astype(np.float32)
    maps = logits(data[None], flat=True)
    back = np.stack([[resize(piece, (40, 33), 1) for piece in x] for x in maps])
    agree(found, back.argmax(0))


def test_z_score_inside_what_is_not_zero() -> None:
    """A hole that is enclosed counts as inside; what lies outside stays 0."""
    scan = volumes.scan((16, 30, 30)) + 5
    outside = np.ones(scan.shape, bool)
    outside[3:13, 4:26, 5:25] = False
    scan[outside], scan[7, 12:15, 12:15] = 0, 0
    kinds = [{"name": "MR", "normalisation": {"kind": "zscore_nonzero"}}]
    found = mask_of(handler(channels=kinds), volumes.nifti(scan))
    data, inside = scan.copy(), ~outside
    data[inside] = (data[inside] - data[inside].mean()) / data[inside].std()
    agree(found, logits(data[None]).argmax(0))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"kind": "zscore"}, lambda x: (x - x.mean()) / x.std()),
        ({"kind": "rescale_0_1"}, lambda x: (x - x.min()) / (x.max() - x.min())),
        (
            {"kind": "scale_range", "a_min": -8, "a_max": 8, "b_min": -1, "b_max": 3, "clip": True},
            lambda x: np.clip((x + 8) / 16 * 4 - 1, -1, 3),
        ),
        ({"kind": "rgb_to_0_1"}, None),
    ],
)
def test_normalisations(how: dict[str, Any], expected: Any) -> None:
    scan = volumes.scan()
    body = volumes.nifti(scan)
    made = handler(channels=[{"name": "MR", "normalisation": how}])
    if expected is None:
        status, found = answer(made, body)
        assert status == 422
        assert "expected 0 to 255" in volumes.message(found)
        return
    agree(mask_of(made, body), logits(expected(scan)[None].astype(np.float32)).argmax(0))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR"])
def test_orientation_turns_the_volume_and_the_mask_back(codes: str) -> None:
    scan = volumes.scan()
    found = mask_of(handler(orientation=codes), volumes.nifti(scan))
    image = nib.Nifti1Image(scan.T, volumes.AFFINE)
    start, end = nib.io_orientation(volumes.AFFINE), nib.orientations.axcodes2ornt(codes)
    turned = image.as_reoriented(nib.orientations.ornt_transform(start, end))
    data = np.asarray(turned.dataobj, np.float32).T
    mask = nib.Nifti1Image(logits(data[None]).argmax(0).T.astype(np.uint8), turned.affine)
    back = mask.as_reoriented(nib.orientations.ornt_transform(end, start))
    agree(found, np.asarray(back.dataobj).T)


def test_regions_and_thresholds() -> None:
    scan = volumes.scan()
    maps = logits(scan[None])
    regions = np.zeros(scan.shape, int)
    for channel, value in zip(maps, (4, 9, 300), strict=True):
        regions[channel > 0] = value
    made = handler(
        ["background", "a", "b", "c"],
        answer={"kind": "regions", "order": [4, 9, 300]},
        label_values=[0, 4, 9, 300],
    )
    found = mask_of(made, volumes.nifti(scan))
    assert found.dtype == np.uint16
    agree(found, regions)
    sure = np.zeros(scan.shape, int)
    for channel, value in zip(maps, (1, 2, 3), strict=True):
        sure[channel > np.log(0.6 / 0.4)] = value
    made = handler(
        ["background", "a", "b", "c"],
        answer={"kind": "sigmoid_threshold", "threshold": 0.6},
        label_values=[0, 1, 2, 3],
    )
    agree(mask_of(made, volumes.nifti(scan)), sure)


def test_mirroring_and_batches_change_nothing_but_what_they_should() -> None:
    scan = volumes.scan()
    body = volumes.nifti(scan)
    plain = {"overlap": 0.5, "gaussian": True, "sigma": 0.125}
    one = mask_of(handler(windows=plain), body)
    batched = mask_of(handler(windows={**plain, "batch": 5}), body)
    assert (one != batched).mean() < 2e-4
    mirrored = mask_of(handler(windows={**plain, "mirror": [0, 2]}), body)
    assert 0.01 < (one != mirrored).mean() < 0.5
    flipped = mask_of(handler(windows={**plain, "mirror": [0, 2]}), volumes.nifti(scan[::-1]))
    assert (flipped[::-1] != mirrored).mean() < 2e-4
