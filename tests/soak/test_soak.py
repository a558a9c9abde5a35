"""Row 38: an hour's worth of requests leaves the server as it was once it is warm."""

from __future__ import annotations

import gzip
import os
import platform
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.support import made, volumes
from tests.support.archives import write_archive
from tests.support.bench import GOOD, bench
from tests.support.bodies import ARRAY, form, npy
from tests.support.pictures import claims, saved
from tests.support.soaking import A_SECOND, Kind, Soak, soak, table

MINUTES = float(os.environ.get("KIT_SOAK_MINUTES", "60"))
"""How much of the hour: that many minutes' worth of requests."""

OUT = os.environ.get("KIT_SOAK_OUT", "")
"""A file for the figures."""

LIMIT_MB = 2
NOT_FINITE = volumes.SCAN.copy()
NOT_FINITE[3, 4, 5] = np.nan
BOMB = gzip.compress(gzip.decompress(volumes.VOLUME) + bytes(100 << 20), 9)

KINDS = [
    Kind("picture", "fd1", GOOD, 200, 38, work=32),
    Kind("tensors", "tiny", npy(ARRAY), 200, 26),
    Kind("volume", "seg", volumes.VOLUME, 200, 5),
    Kind("picture in a form", "fd1", form(("data", "a.jpg", GOOD))[0], 200, 4,
         {"Content_Type": form(("data", "a.jpg", GOOD))[1]}),
    Kind("truncated picture", "fd1", GOOD[: len(GOOD) // 2], 400, 3),
    Kind("no picture", "fd1", b"hello", 400, 2),
    Kind("claims to be huge", "fd1", claims(60_000, 60_000), 413, 3),
    Kind("TIFF", "fd1", saved("TIFF"), 415, 2),
    Kind("wrong shape", "tiny", npy(ARRAY[0]), 422, 3),
    Kind("no tensor", "tiny", b"\x93NUMPY and no more", 400, 2),
    Kind("volume with NaN", "seg", volumes.nifti(NOT_FINITE), 422, 1),
    Kind("truncated volume", "seg", volumes.VOLUME[: len(volumes.VOLUME) // 2], 400, 1),
    Kind("gzip bomb", "seg", BOMB, 400, 1),
    Kind("unknown model", "none", npy(ARRAY), 404, 2),
    Kind("over the limit", "tiny", bytes((LIMIT_MB << 20) + 1), 413, 1),
    Kind("client leaves", "fd1", GOOD, 0, 3),
    Kind("half a request", "fd1", GOOD, 0, 3),
]  # fmt: skip


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.timeout(int(MINUTES * 60 * 4) + 600)
def test_row_38_an_hours_worth_of_requests() -> None:
    archives = {
        "fd1": made.detector(),
        "tiny": made.tensors(),
        "seg": volumes.write_archive(made.folder() / "soak-seg.mar", volumes.settings()),
    }
    with bench(archives, ("fd1", GOOD), max_request_mb=LIMIT_MB, volume_memory_mb=128) as found:
        for name in archives:
            found.server.wait_ready(name)
        pids = found.pids()
        seen = soak(found, KINDS, round(MINUTES * 60 * A_SECOND), ("picture", "tensors"))
        assert found.pids() == pids, "a worker was restarted"
    if OUT:
        Path(OUT).write_text(page(seen), encoding="utf-8")
    assert not seen.wrong, seen.wrong[:20]
    assert not seen.grown(), seen.grown()


STAND_IN = """
import zlib

class Handler:
    def initialize(self, context):
        pass

    def handle(self, rows, context):
        for i, row in enumerate(rows):
            body = row.get("body") or row.get("data") or b""
            context.set_response_status({statuses}.get(zlib.crc32(body), 200), "x", idx=i)
        return [b"y" * 20_000] * len(rows)
"""


@pytest.mark.soak
@pytest.mark.alone
def test_row_38_the_front_end_at_full_speed(tmp_path: Path) -> None:
    """Row 38: the same requests to workers that answer at once, for the front end's own memory."""
    statuses = {zlib.crc32(k.body): k.status for k in KINDS if k.status and k.model != "none"}
    code = STAND_IN.format(statuses=statuses)
    archives = {name: write_archive(tmp_path, name, code) for name in ("fd1", "tiny", "seg")}
    with bench(archives, ("fd1", GOOD), max_request_mb=LIMIT_MB) as found:
        for name in archives:
            found.server.wait_ready(name)
        seen = soak(found, KINDS, 12_000, (), pace=None)
    assert not seen.wrong, seen.wrong[:20]
    assert not seen.grown(), seen.grown()


def page(seen: Soak) -> str:
    """The figures with their command and machine."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = {x.partition(": ")[2] for x in info.splitlines() if x.startswith("model name")}
    return (
        "# Soak: an hour's worth of good and bad requests\n\n"
        f"`make soak MINUTES={MINUTES:g}`, {', '.join(sorted(models))}, {os.cpu_count()} cores, "
        f"python {platform.python_version()}, load average {psutil.getloadavg()[2]:.2f} at the "
        f"end (15 minutes): {seen.requests[-1]:,.0f} requests in {seen.seconds / 60:.1f} minutes, "
        f"{len(seen.wrong)} answered otherwise than they must be. MiB are resident memory; latency "
        "is that of the quickest tenth of a round, in units of a calculation by the client.\n\n"
        + table(seen)
    )


LEAKS = {
    "flat": "len(rows)",
    "memory": "kept.append(b'x' * (1 << 18))",
    "descriptors": "kept.append(open('/dev/null'))",
    "latency": "kept.append(0); time.sleep(len(kept) / 10_000)",
}
HANDLER = """
import time
kept = []

class Handler:
    def initialize(self, context):
        pass

    def handle(self, rows, context):
        {}
        return [b"{{}}" for row in rows]
"""
FOUND = {
    "memory": "memory MiB",
    "descriptors": "descriptors descriptors",
    "latency": "latency latency",
}


@pytest.mark.alone
def test_row_38_a_leak_is_found_and_by_its_name(tmp_path: Path) -> None:
    """Handlers that keep 256 KiB or a descriptor of each request, or take longer with each."""
    archives = {n: write_archive(tmp_path, n, HANDLER.format(code)) for n, code in LEAKS.items()}
    kinds = [Kind(name, name, b"x", 200, 1) for name in LEAKS]
    with bench(archives, ("flat", b"x")) as found:
        for name in archives:
            found.server.wait_ready(name)
        seen = soak(found, kinds, 960, tuple(LEAKS), pace=None)
    assert not seen.wrong
    grown = {line.partition(":")[0] for line in seen.grown()}
    assert grown >= set(FOUND.values()), seen.grown()
    # The machine is one for all: where one handler takes longer and longer, others may seem to.
    assert not {name for name in grown - set(FOUND.values()) if "latency" not in name}
