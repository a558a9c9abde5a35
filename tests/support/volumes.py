"""Volumes, series and segmentation archives that the tests share."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handlers.artefact import Artefact, TorchScriptOptions
from handlers.passport import Passport, TensorSpec
from repack import archive

PATCH = (16, 24, 20)
LABELS = ("background", "vessel", "wall")
AFFINE = np.array([[-0.7, 0.1, 0, 20], [0.1, 0.8, 0.2, -30], [0, -0.2, 2.5, 40], [0, 0, 0, 1.0]])

OUTPUTS = TorchScriptOptions(outputs=("OUTPUT__0",))
PORTABLE = Artefact("torchscript", ("model.pt",), "f32", {"label": "f32"}, "tensors", OUTPUTS)


class RandomNet(nn.Module):
    """``[n, channels, d, h, w]`` to ``[n, k, d, h, w]``, or the same in two dimensions.

    A value over 20,000 makes it run out of memory, one over 10,000 never end: on purpose, in ways
    that a real network does.
    """

    def __init__(self, channels: int = 1, k: int = 3, flat: bool = False):
        super().__init__()
        conv = nn.Conv2d if flat else nn.Conv3d
        self.first = conv(channels, 6, 3, padding=1)
        self.second = conv(6, k, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        largest = float(x.max())
        if largest > 20000.0:
            x = x + torch.zeros([1 << 45])
        while largest > 10000.0:
            largest = largest + 0.0
        found: Tensor = self.second(torch.relu(self.first(x)))
        return found


def settings(**changed: Any) -> dict[str, Any]:
    """The contract's settings for one channel of CT, three labels, nothing resampled."""
    return {
        "framework": "nnunet",
        "channels": [{"name": "CT", "normalisation": {"kind": "none"}}],
        "orientation": None,
        "spacing": None,
        "transpose_forward": [0, 1, 2],
        "crop": None,
        "patch": list(PATCH),
        "resampling": {
            "data": {"order": 3, "order_z": 0, "separate_z": None},
            "logits": {"order": 1, "order_z": 0, "separate_z": None},
        },
        "windows": {"overlap": 0.5, "gaussian": True, "sigma": 0.125, "mirror": []},
        "answer": {"kind": "argmax"},
        "label_values": [0, 1, 2],
        **changed,
    }


def passport(given: Mapping[str, Any], labels: Sequence[str] = LABELS, k: int = 3) -> Passport:
    """The record of a segmentation archive with these settings."""
    patch, channels = given["patch"], len(given["channels"])
    layout = "NCDHW" if len(patch) == 3 else "NCHW"
    return Passport(
        name="seg",
        version="1.0",
        task="segmentation",
        handler="handlers.segmentation:SegmentationHandler",
        source={},
        inputs=(
            TensorSpec("INPUT__0", "float32", ("batch", channels, *patch), (0.0, 1.0), layout),
        ),
        outputs=(TensorSpec("OUTPUT__0", "float32", ("batch", k, *patch), None, layout),),
        labels=tuple(labels),
        settings=dict(given),
        artefacts={"accelerated": PORTABLE, "portable": PORTABLE},
        gate={},
        versions={},
    )


def network(channels: int = 1, k: int = 3, flat: bool = False) -> RandomNet:
    """The same random weights every time."""
    torch.manual_seed(7)
    return RandomNet(channels, k, flat).eval()


def write_archive(path: Path, given: Mapping[str, Any]) -> Path:
    """A whole ``.mar`` around ``network``."""
    with tempfile.TemporaryDirectory() as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.script is deprecated, and what TorchScript is
        stage = Path(made)
        net = network(len(given["channels"]), flat=len(given["patch"]) == 2)
        torch.jit.save(torch.jit.script(net), str(stage / "model.pt"))
        archive.stage_handlers(stage)
        archive.finish_stage(stage, passport(given))
        archive.pack(stage, path)
    return path


@cache
def _smooth(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    from scipy import ndimage

    noise = np.random.default_rng(seed).normal(0, 1, shape)
    blobs: NDArray[np.float32] = np.asarray(ndimage.gaussian_filter(noise, 1.5) * 8, np.float32)
    return blobs


def scan(shape: tuple[int, int, int] = (21, 40, 33), seed: int = 1) -> NDArray[np.float32]:
    """``[z, y, x]`` float32: smooth blobs, around 0, a few units high."""
    found: NDArray[np.float32] = _smooth(shape, seed).copy()
    return found


def nifti(
    voxels: NDArray[Any], affine: NDArray[Any] = AFFINE, packed: bool = True, **header: Any
) -> bytes:
    """A NIfTI-1 of ``[z, y, x]`` (or ``[t, z, y, x]``) voxels, written by nibabel."""
    image = nib.Nifti1Image(voxels.T, affine)
    for name, value in header.items():
        image.header[name] = value
    data = image.to_bytes()
    if not packed:
        return bytes(data)
    import gzip

    return gzip.compress(data, 1, mtime=0)


def zipped(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in files.items():
            z.writestr(name, data)
    return out.getvalue()


def series(voxels: NDArray[np.int16], spacing: float = 2.5) -> dict[str, Any]:
    """A CT series of ``[z, y, x]`` int16 voxels, oblique, as pydicom datasets by file name.

    Stored with RescaleIntercept -1024; files are named against the order of z.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    series_uid, study_uid, frame_uid = (generate_uid() for _ in range(3))
    row, column = np.array([0.8, 0.6, 0.0]), np.array([-0.6, 0.8, 0.0])
    normal = np.cross(row, column)
    files = {}
    for z, plane in enumerate(voxels):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        name = f"IM{len(voxels) - z:04d}.dcm"
        d = FileDataset(name, {}, file_meta=meta, preamble=bytes(128))
        d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        d.SeriesInstanceUID, d.StudyInstanceUID = series_uid, study_uid
        d.FrameOfReferenceUID = frame_uid
        d.Modality, d.PatientName, d.PatientID = "CT", "Test^Case", "1"
        d.PatientBirthDate = d.PatientSex = d.StudyID = d.AccessionNumber = ""
        d.StudyDate, d.StudyTime, d.ReferringPhysicianName = "20260101", "120000", ""
        d.Manufacturer, d.SeriesNumber, d.InstanceNumber = "made for a test", 1, z + 1
        d.ImageOrientationPatient = [*row, *column]
        d.ImagePositionPatient = list(np.round(np.array([5, -7, 11]) + normal * spacing * z, 6))
        d.PixelSpacing, d.SliceThickness = [0.8, 0.7], spacing
        d.Rows, d.Columns = plane.shape
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated = d.BitsStored = 16
        d.HighBit, d.PixelRepresentation = 15, 1
        d.RescaleSlope, d.RescaleIntercept = 1, -1024
        d.PixelData = (plane + 1024).astype("<i2").tobytes()
        files[name] = d
    return files


def dicom_zip(datasets: Mapping[str, Any]) -> bytes:
    """The zip of a series."""
    files = {}
    for name, dataset in datasets.items():
        out = io.BytesIO()
        dataset.save_as(out, enforce_file_format=True)
        files[name] = out.getvalue()
    return zipped(files)


def load_mask(data: bytes) -> tuple[NDArray[Any], Any]:
    """An answered mask ``[z, y, x]`` and its nibabel image."""
    import gzip

    image = nib.Nifti1Image.from_bytes(gzip.decompress(data))
    return np.asarray(image.dataobj).T, image


def message(answer: bytes) -> str:
    """The reason in a refusal."""
    return str(json.loads(answer)["message"])


SCAN = scan()
VOLUME = nifti(SCAN)
VOLUME_LIMIT = 1 << 20
VOLUME_MEMORY_MB = 128
