"""Rows 6, 7, 9, 10, 13, 14, 22, 24 and 47 for medical volumes; series have a file of their own.

Row 22 on a GPU: tests/gpu/test_gpu_detector.py.
"""

from __future__ import annotations

import gzip
import http.client
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.support import volumes
from tests.support.bench import Bench, Reply, bench
from tests.support.volumes import SCAN, VOLUME_LIMIT, VOLUME_MEMORY_MB
from tests.support.volumes import VOLUME as GOOD


def changed(offset: int, form: str, *values: float) -> bytes:
    """The good volume with other numbers in its header."""
    data = bytearray(gzip.decompress(GOOD))
    struct.pack_into(form, data, offset, *values)
    return gzip.compress(bytes(data), 1)


def with_voxel(value: float, z: int = 3, y: int = 4, x: int = 5) -> bytes:
    voxels = SCAN.copy()
    voxels[z, y, x] = value
    return volumes.nifti(voxels)


def test_a_good_volume_is_answered_with_a_mask_on_its_grid(scanning: Bench) -> None:
    reply = scanning.ask(GOOD)
    assert (reply.status, reply.media_type) == (200, "application/gzip")
    mask, image = volumes.load_mask(reply.body)
    assert mask.shape == SCAN.shape
    assert len(np.unique(mask)) == 3
    np.testing.assert_allclose(image.affine, volumes.AFFINE, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_row_06_not_finite(scanning: Bench, value: float) -> None:
    scanning.ask(with_voxel(value)).reason(422, "x=5, y=4, z=3", "expected finite values")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (volumes.nifti(np.stack([SCAN, SCAN])), ("2 values a voxel came; expected 1 (CT)",)),
        (volumes.nifti(np.zeros((2, 1, 4, 5, 6), np.int16)), ("size [6, 5, 4, 1, 2] came",)),
        (volumes.nifti(SCAN.astype(np.complex64)), ("complex64 came; expected whole or floating",)),
        (changed(80, "<f", 0.0), ("spacing 0, ", "expected positive")),
        (changed(88, "<f", -2.5), (", -2.5 mm", "expected positive")),
        (changed(88, "<f", np.nan), ("spacing", "nan", "expected positive")),
    ],
    ids=["channels", "rank", "complex", "zero", "negative", "nan"],
)
def test_row_07_wrong_arrays_and_spacings(
    scanning: Bench, body: bytes, words: tuple[str, ...]
) -> None:
    scanning.ask(body).reason(422, *words)


def test_row_09_a_bomb_is_refused_by_its_header_alone(scanning: Bench) -> None:
    """A header that claims 1 GiB, and 300 MB of zeros in 1 MB of gzip."""
    header = gzip.decompress(changed(42, "<3h", 1024, 1024, 256))[:352]
    body = gzip.compress(header + bytes(300 << 20), 1)[: VOLUME_LIMIT - 1000]
    assert scanning.ask(GOOD).status == 200  # the format's library is loaded with the first volume
    before = peak(scanning)
    scanning.ask(body).reason(
        413, "1024x1024x256", "1,024.0 MiB", f"limit of this worker is {VOLUME_MEMORY_MB}"
    )
    assert peak(scanning) - before < 8 << 20


def test_row_09_more_data_than_the_header_claims(scanning: Bench) -> None:
    body = gzip.compress(gzip.decompress(GOOD) + bytes(200 << 20), 9)
    assert scanning.ask(GOOD).status == 200  # the format's library is loaded with the first volume
    before = peak(scanning)
    scanning.ask(body).reason(400, "holds more data than its header claims")
    assert peak(scanning) - before < 8 << 20


def peak(scanning: Bench) -> int:
    """Largest resident memory that the worker of ``seg`` has had, in bytes."""
    (pid,) = scanning.pids("seg")
    (line,) = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line
    ]
    return int(line.split()[1]) << 10


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (
            gzip.decompress(changed(42, "<3h", 330, 40, 21)),
            400,
            ("claims 1,108,800 bytes", "110,880 bytes that came", "the header lies"),
        ),
        (changed(42, "<3h", 33, 40, 22), 400, ("truncated: 111,232 of 116,512 bytes came",)),
        (changed(42, "<h", -33), 400, ("the header lies",)),
        (changed(40, "<h", 77), 400, ("claims 77 axes",)),
        (changed(70, "<h", 999), 400, ("unknown data type 999",)),
        (changed(108, "<f", np.inf), 400, ("begins at inf",)),
        (GOOD[: len(GOOD) // 2], 400, ("truncated",)),
        (GOOD[:-4], 400, ("truncated", "no end")),
        (GOOD[:-8] + b"\0\0\0\0" + GOOD[-4:], 400, ("damaged",)),
        (GOOD[:2000] + bytes(40) + GOOD[2040:], 400, ("the NIfTI",)),
        (GOOD[:200], 400, ("truncated",)),
        (gzip.compress(b"a text" * 1000), 415, ("no NIfTI",)),
        (b"a text", 415, ("6 bytes of an unknown format", "expected NIfTI")),
        (b"", 400, ("0 bytes came",)),
    ],
)  # fmt: skip
def test_rows_09_and_10_lies_and_truncation(
    scanning: Bench, body: bytes, status: int, words: tuple[str, ...]
) -> None:
    scanning.ask(body).reason(status, *words)


def form(files: dict[str, bytes]) -> tuple[bytes, str]:
    """A multipart form and its content type."""
    parts = [
        f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.nii.gz"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in files.items()
    ]
    return b"".join(parts) + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def ask_form(scanning: Bench, files: dict[str, bytes]) -> Reply:
    body, kind = form(files)
    return scanning.ask(body, "two", Content_Type=kind)


def test_channels_come_as_form_fields_in_any_order(scanning: Bench) -> None:
    second = volumes.nifti(volumes.scan(seed=2))
    by_name = ask_form(scanning, {"t2": second, "t1": GOOD})
    assert by_name.status == 200
    assert ask_form(scanning, {"T1": GOOD, "T2": second}).body == by_name.body
    assert ask_form(scanning, {"0001": second, "0000": GOOD}).body == by_name.body
    ask_form(scanning, {"a": GOOD, "b": second}).reason(422, "cannot be guessed")
    stacked = scanning.ask(volumes.nifti(np.stack([SCAN, volumes.scan(seed=2)])), "two")
    assert stacked.body == by_name.body


def test_row_07_channels_that_do_not_belong_together(scanning: Bench) -> None:
    small = volumes.nifti(SCAN[1:])
    ask_form(scanning, {"T1": GOOD, "T2": small}).reason(422, "field T2: another grid")
    moved = volumes.nifti(SCAN, volumes.AFFINE + np.eye(4, k=3))
    ask_form(scanning, {"T1": GOOD, "T2": moved}).reason(422, "field T2: another grid")
    ask_form(scanning, {"T1": GOOD, "T2": with_voxel(np.nan)}).reason(422, "field T2: nan at voxel")
    three = {"T1": GOOD, "T2": GOOD, "T3": GOOD}
    ask_form(scanning, three).reason(422, "3 files came (T1, T2, T3); expected 2: T1, T2")
    scanning.ask(GOOD, "two").reason(422, "1 values a voxel came; expected 2 (T1, T2)")


def test_row_47_channels_of_unknown_names(scanning: Bench) -> None:
    """Row 47: also where one of them is known."""
    second = volumes.nifti(volumes.scan(seed=2))
    for names in (("a", "b"), ("T1", "b"), ("1", "2"), ("0000", "0002"), ("0", "00")):
        reply = ask_form(scanning, dict(zip(names, (GOOD, second), strict=True)))
        reply.reason(422, f"fields {names[0]}, {names[1]} came; expected T1, T2, or their numbers")


def test_row_13_a_body_over_the_limit(scanning: Bench) -> None:
    noise = np.random.default_rng(1).integers(0, 255, VOLUME_LIMIT + 1, np.uint8).tobytes()
    assert scanning.ask(noise).status == 413


def test_row_14_an_answer_over_the_limit(scanning: Bench) -> None:
    """A DICOM-SEG is not compressed: 8 KiB a slice and label, for slices that shrink to nothing."""
    voxels = np.zeros((160, 256, 256), np.int16)
    voxels[:, ::8, ::8] = np.random.default_rng(1).integers(0, 2, (160, 32, 32))
    body = volumes.dicom_zip(volumes.series(voxels))
    assert len(body) < VOLUME_LIMIT
    reply = scanning.ask(body, "wide")
    reply.reason(413, "the answer has", "sends at most 1,048,576", "--max-request-mb")
    assert scanning.ask(body, "wide", Accept="application/json").status == 200


def test_row_22_a_volume_too_large_for_the_worker(scanning: Bench) -> None:
    body = volumes.nifti(np.zeros((200, 400, 400), np.uint8))
    scanning.ask(body).reason(413, "400x400x200 voxels needs", "limit of this worker is 128.0 MiB")


def test_row_22_memory_runs_out_in_the_network(scanning: Bench) -> None:
    scanning.ask(with_voxel(30000.0)).reason(507, "ran out of memory")


@pytest.mark.timeout(120)
def test_row_24_a_network_that_never_ends(volume_server: Bench) -> None:
    archives = {"seg": volume_server.store / "seg.mar"}
    with bench(archives, ("seg", GOOD), response_timeout=5) as slow:
        before = slow.pids()
        reply = slow.ask(with_voxel(15000.0))
        assert reply.status >= 500
        assert 4 < reply.seconds < 30
        deadline = time.monotonic() + 60
        while (slow.pids() == before or not slow.server.client.is_ready("seg")) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.2)
        assert slow.pids() != before
        assert slow.ask(GOOD).status == 200


def test_headers_and_metrics_tell_what_answered(scanning: Bench) -> None:
    host, port = scanning.server.settings.ports["predictions"]
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request("POST", "/predictions/seg", GOOD)
    response = connection.getresponse()
    image = volumes.load_mask(response.read())[1]
    connection.close()
    assert response.headers["X-Runtime"] == "torchscript"
    assert response.headers["X-Precision"] == "f32"
    assert response.headers["X-Fallback"] == "none"
    assert int(response.headers["X-Accumulator-Bytes"]) > 0
    assert bytes(image.header["descrip"].tobytes()).startswith(b"torchscript f32 seg 1.0")
    page = scanning.ask(b"", purpose="metrics", path="/metrics").body.decode()
    lines = [x for x in page.splitlines() if x.startswith("handler_windows{")]
    assert any('ModelName="seg"' in x and float(x.split()[-1]) >= 18 for x in lines), page
    log = scanning.server.workers_log.read_text()
    assert "VOLUME seg: NIfTI 33x40x21, 18 windows" in log
    assert "accumulators 0.2 MiB" in log


def test_plain_zlib_is_no_nifti(scanning: Bench) -> None:
    scanning.ask(zlib.compress(gzip.decompress(GOOD))).reason(415, "unknown format")
