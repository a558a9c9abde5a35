"""Rows 6, 7, 9, 10, 13, 14, 22 and 24 for medical volumes."""

from __future__ import annotations

import gzip
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import volumes
from tests.faults import made
from tests.faults.bench import Bench, Reply, bench

SCAN = volumes.scan()
GOOD = volumes.nifti(SCAN)
LIMIT = 1 << 20
MEMORY_MB = 128
WIDE = {"patch": [32, 128, 128], "windows": {"overlap": 0.0, "gaussian": False, "mirror": []}}
TWO = [{"name": n, "normalisation": {"kind": "zscore"}} for n in ("T1", "T2")]


@pytest.fixture(scope="module")
def running() -> Iterator[Bench]:
    """Three segmentation models, on a server that takes and gives 1 MiB."""
    store = made.folder() / "volumes"
    store.mkdir()
    archives = {
        "seg": volumes.write_archive(store / "seg.mar", volumes.settings()),
        "wide": volumes.write_archive(store / "wide.mar", volumes.settings(**WIDE)),
        "two": volumes.write_archive(store / "two.mar", volumes.settings(channels=TWO)),
    }
    values = {"max_request_mb": 1, "volume_memory_mb": MEMORY_MB}
    with bench(archives, ("seg", GOOD), **values) as found:
        for name in archives:
            found.server.wait_ready(name)
        yield found


@pytest.fixture
def served(running: Bench) -> Iterator[Bench]:
    with running.undisturbed():
        yield running


def changed(offset: int, form: str, *values: float) -> bytes:
    """The good volume with other numbers in its header."""
    data = bytearray(gzip.decompress(GOOD))
    struct.pack_into(form, data, offset, *values)
    return gzip.compress(bytes(data), 1)


def with_voxel(value: float, z: int = 3, y: int = 4, x: int = 5) -> bytes:
    voxels = SCAN.copy()
    voxels[z, y, x] = value
    return volumes.nifti(voxels)


def test_a_good_volume_is_answered_with_a_mask_on_its_grid(served: Bench) -> None:
    reply = served.ask(GOOD)
    assert (reply.status, reply.media_type) == (200, "application/gzip")
    mask, image = volumes.load_mask(reply.body)
    assert mask.shape == SCAN.shape
    assert len(np.unique(mask)) == 3
    np.testing.assert_allclose(image.affine, volumes.AFFINE, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_row_06_not_finite(served: Bench, value: float) -> None:
    served.ask(with_voxel(value)).reason(422, "x=5, y=4, z=3", "expected finite values")


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
    served: Bench, body: bytes, words: tuple[str, ...]
) -> None:
    served.ask(body).reason(422, *words)


def test_row_09_a_bomb_is_refused_by_its_header_alone(served: Bench) -> None:
    """A header that claims 1 GiB, and 300 MB of zeros in 1 MB of gzip."""
    header = gzip.decompress(changed(42, "<3h", 1024, 1024, 256))[:352]
    body = gzip.compress(header + bytes(300 << 20), 1)[: LIMIT - 1000]
    assert served.ask(GOOD).status == 200  # the format's library is loaded with the first volume
    before = peak(served)
    served.ask(body).reason(
        413, "1024x1024x256", "1,024.0 MiB", f"limit of this worker is {MEMORY_MB}"
    )
    assert peak(served) - before < 8 << 20


def test_row_09_more_data_than_the_header_claims(served: Bench) -> None:
    body = gzip.compress(gzip.decompress(GOOD) + bytes(200 << 20), 9)
    assert served.ask(GOOD).status == 200  # the format's library is loaded with the first volume
    before = peak(served)
    served.ask(body).reason(400, "holds more data than its header claims")
    assert peak(served) - before < 8 << 20


def peak(served: Bench) -> int:
    """Largest resident memory that the worker of ``seg`` has had, in bytes."""
    (pid,) = served.pids("seg")
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
    served: Bench, body: bytes, status: int, words: tuple[str, ...]
) -> None:
    served.ask(body).reason(status, *words)


def series() -> dict[str, Any]:
    return volumes.series(np.round(SCAN[:8] * 100).astype(np.int16))


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda files: files.pop(name)


def other(name: str, **tags: Any) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        for tag, value in tags.items():
            setattr(files[name], tag, value)

    return change


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (without("IM0004.dcm"), 400, ("missing between IM0005.dcm and IM0003.dcm", "5 mm apart")),
        (other("IM0004.dcm", Rows=20), 400, ("IM0004.dcm is of another size", "Rows 20 and 40")),
        (
            other("IM0004.dcm", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
            400,
            ("IM0004.dcm lies in another orientation",),
        ),
        (other("IM0004.dcm", PixelSpacing=[1, 1]), 400, ("IM0004.dcm has another pixel spacing",)),
        (other("IM0004.dcm", PixelSpacing=[0, 1]), 422, ("IM0004.dcm", "expected positive")),
        (other("IM0004.dcm", SeriesInstanceUID="1.2.3"), 400, ("IM0004.dcm is of another series",)),
        (other("IM0004.dcm", PixelData=b"abcd"), 400, ("IM0004.dcm is truncated",)),
        (other("IM0004.dcm", RescaleSlope="1e39"), 422, ("inf at voxel",)),
        (other("IM0004.dcm", ImagePositionPatient=None), 400, ("IM0004.dcm has no ImagePosition",)),
        (other("IM0004.dcm", NumberOfFrames=2), 422, ("IM0004.dcm has 2 frames",)),
        (other("IM0004.dcm", SamplesPerPixel=3), 422, ("IM0004.dcm has 3 samples",)),
    ],
)
def test_row_10_series_with_something_wrong(
    served: Bench, change: Callable[[dict[str, Any]], None], status: int, words: tuple[str, ...]
) -> None:
    files = series()
    change(files)
    served.ask(volumes.dicom_zip(files)).reason(status, *words)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (volumes.zipped({"../evil.dcm": b"x"}), 400, ("'../evil.dcm' points outside",)),
        (volumes.zipped({"/evil.dcm": b"x"}), 400, ("points outside",)),
        (volumes.zipped({"a.txt": b"x"}), 400, ("a.txt is no DICOM file",)),
        (volumes.zipped({}), 415, ("a zip without files",)),
        (volumes.dicom_zip(series())[:3000], 400, ("damaged or truncated",)),
        (volumes.zipped({"a.dcm": bytes(40 << 20)}), 413, ("at most 200 times",)),
        (volumes.zipped({"a.dcm": bytes(130 << 20)}), 413, ("unpacks to 130.0 MiB",)),
    ],
)
def test_row_10_zips_with_something_wrong(
    served: Bench, body: bytes, status: int, words: tuple[str, ...]
) -> None:
    served.ask(body).reason(status, *words)


def test_row_10_a_link_in_a_zip(served: Bench) -> None:
    body = bytearray(volumes.zipped({"a.dcm": b"/etc/passwd"}))
    at = body.rindex(b"PK\x01\x02")
    body[at + 5] = 3  # made on Unix
    struct.pack_into("<I", body, at + 38, 0o120777 << 16)
    served.ask(bytes(body)).reason(400, "'a.dcm' is a link")


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


def ask_form(served: Bench, files: dict[str, bytes]) -> Reply:
    body, kind = form(files)
    return served.ask(body, "two", Content_Type=kind)


def test_channels_come_as_form_fields_in_any_order(served: Bench) -> None:
    second = volumes.nifti(volumes.scan(seed=2))
    by_name = ask_form(served, {"t2": second, "t1": GOOD})
    assert by_name.status == 200
    assert ask_form(served, {"T1": GOOD, "T2": second}).body == by_name.body
    assert ask_form(served, {"0001": second, "0000": GOOD}).body == by_name.body
    assert ask_form(served, {"a": GOOD, "b": second}).body == by_name.body
    assert ask_form(served, {"a": second, "b": GOOD}).body != by_name.body
    stacked = served.ask(volumes.nifti(np.stack([SCAN, volumes.scan(seed=2)])), "two")
    assert stacked.body == by_name.body


def test_row_07_channels_that_do_not_belong_together(served: Bench) -> None:
    small = volumes.nifti(SCAN[1:])
    ask_form(served, {"T1": GOOD, "T2": small}).reason(422, "field T2: another grid")
    moved = volumes.nifti(SCAN, volumes.AFFINE + np.eye(4, k=3))
    ask_form(served, {"T1": GOOD, "T2": moved}).reason(422, "field T2: another grid")
    ask_form(served, {"T1": GOOD, "T2": with_voxel(np.nan)}).reason(422, "field T2: nan at voxel")
    three = {"T1": GOOD, "T2": GOOD, "T3": GOOD}
    ask_form(served, three).reason(422, "3 files came (T1, T2, T3); expected 2: T1, T2")
    served.ask(GOOD, "two").reason(422, "1 values a voxel came; expected 2 (T1, T2)")


def test_row_13_a_body_over_the_limit(served: Bench) -> None:
    noise = np.random.default_rng(1).integers(0, 255, LIMIT + 1, np.uint8).tobytes()
    assert served.ask(noise).status == 413


def test_row_14_an_answer_over_the_limit(served: Bench) -> None:
    """A DICOM-SEG is not compressed: 8 KiB a slice and label, for slices that shrink to nothing."""
    voxels = np.zeros((160, 256, 256), np.int16)
    voxels[:, ::8, ::8] = np.random.default_rng(1).integers(0, 2, (160, 32, 32))
    body = volumes.dicom_zip(volumes.series(voxels))
    assert len(body) < LIMIT
    reply = served.ask(body, "wide")
    reply.reason(413, "the answer has", "sends at most 1,048,576", "--max-request-mb")
    assert served.ask(body, "wide", Accept="application/json").status == 200


def test_row_22_a_volume_too_large_for_the_worker(served: Bench) -> None:
    body = volumes.nifti(np.zeros((200, 400, 400), np.uint8))
    served.ask(body).reason(413, "400x400x200 voxels needs", "limit of this worker is 128.0 MiB")


def test_row_22_memory_runs_out_in_the_network(served: Bench) -> None:
    served.ask(with_voxel(30000.0)).reason(507, "ran out of memory")


@pytest.mark.timeout(120)
def test_row_24_a_network_that_never_ends(running: Bench) -> None:
    archives = {"seg": running.store / "seg.mar"}
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


def test_headers_and_metrics_tell_what_answered(served: Bench) -> None:
    import http.client

    host, port = served.server.settings.ports["predictions"]
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
    page = served.ask(b"", purpose="metrics", path="/metrics").body.decode()
    lines = [x for x in page.splitlines() if x.startswith("handler_windows{")]
    assert any('ModelName="seg"' in x and float(x.split()[-1]) >= 18 for x in lines), page
    log = served.server.workers_log.read_text()
    assert "VOLUME seg: NIfTI 33x40x21, 18 windows" in log
    assert "accumulators 0.2 MiB" in log


def test_plain_zlib_is_no_nifti(served: Bench) -> None:
    served.ask(zlib.compress(gzip.decompress(GOOD))).reason(415, "unknown format")
