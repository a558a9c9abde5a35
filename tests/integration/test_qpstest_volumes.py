"""The tester on volumes, as a user starts it, against a real server and a real archive."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy.torchserve.server import Server
from tests.support import volumes

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (21, 40, 33)


def qpstest(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "qpstest"), *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    volumes.write_archive(folder / "fd1.mar", volumes.settings())
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scan in each format, and a file that is none."""
    import SimpleITK as sitk  # noqa: N813

    folder = tmp_path_factory.mktemp("scans")
    scan = volumes.scan(SHAPE)
    (folder / "a.nii.gz").write_bytes(volumes.nifti(scan))
    image = sitk.GetImageFromArray(scan)
    image.SetSpacing((0.7, 0.8, 2.5))
    for name in ("b.mha", "c.nrrd"):
        sitk.WriteImage(image, str(folder / name))
    series = volumes.series((scan * 10).astype(np.int16))
    (folder / "d.zip").write_bytes(volumes.dicom_zip(series))
    (folder / "readme.txt").write_text("no volume")
    return folder


@pytest.mark.slow
def test_every_format_in_every_mode(
    store: Path, scans: Path, server_factory: Callable[..., Server], tmp_path: Path
) -> None:
    server = server_factory(store, workers=1)
    figures, plot, sheet = (tmp_path / name for name in ("a.json", "a.png", "vis.png"))
    done = qpstest(
        "--mode", "all", "--input", scans, "--url", f"http://127.0.0.1:{server.settings.port}",
        "--model-store", store, "--requests", 8, "--batch", "1,4", "--processes", 1,
        "--json", figures, "--plot", plot, "--vis", 1, "--vis-out", sheet,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(figures.read_text())
    assert report["inputs"] == ["a.nii.gz", "b.mha", "c.nrrd", "d.zip"]
    runs = report["runs"]
    assert [(r["mode"], r["batch"], r["concurrency"]) for r in runs] == [
        *((mode, batch, c) for mode in (1, 2) for batch in (1, 4) for c in (1, 4)),
        *((3, 1, c) for c in (1, 4)),
    ]
    for run in runs:
        assert (run["succeeded"], run["errors"]) == (8, {})
        assert run["runtime"] == "torchscript"
        assert {"decode", "preprocess", "infer", "postprocess", "encode"} <= set(run["stages_ms"])
        assert run["stages_ms"]["infer"] > 0
    assert "the model alone, and end to end" in done.stdout
    assert "2 accelerated and 3 served: Dice label 1 1.0000" in done.stdout
    assert "0 of 27720 voxels differ" in done.stdout
    assert plot.read_bytes()[:4] == sheet.read_bytes()[:4] == b"\x89PNG"


def test_a_mask_of_another_scan_is_a_wrong_answer(
    server_factory: Callable[..., Server], scans: Path, tmp_path: Path
) -> None:
    from tests.support.archives import write_archive

    mask = volumes.nifti(np.zeros((4, 5, 6), np.uint8))
    code = f"""
class Handler:
    def initialize(self, context):
        pass
    def handle(self, rows, context):
        for i in range(len(rows)):
            context.set_response_content_type(i, "application/gzip")
        return [{mask!r}] * len(rows)
"""
    folder = tmp_path / "store"
    folder.mkdir()
    write_archive(folder, "fd1", code, task="segmentation")
    server = server_factory(folder)
    done = qpstest(
        "--input", scans / "a.nii.gz", "--url", f"http://127.0.0.1:{server.settings.port}",
        "--model-store", folder, "--requests", 2,
    )  # fmt: skip
    assert done.returncode == 1
    assert "wrong_answer" in done.stderr
    assert "a mask of 6x5x4 voxels on another grid than the scan's 33x40x21" in done.stderr
