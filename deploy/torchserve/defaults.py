"""Defaults that depend on what the model store holds."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from handlers.entry import own_gpu_process
from handlers.errors import KitError
from handlers.passport import FILE, Passport

VOLUMES = {"max_request_mb": "512", "response_timeout": "900"}
"""Where the store holds a segmentation archive: a 512x512x500 scan of 16-bit values has 250 MiB as
it is, and minutes are usual on a CPU."""

GPU_RUNTIMES = {"tensorrt", "aotinductor", "torchscript-cuda"}
GPU = {"batch_size": "32", "max_batch_delay": "1", "queue": "1000"}
WORKERS_PER_GPU = 6
"""Where the named archive takes pictures and each worker holds it on the GPU: what answered most of
them on an H200 with 16 cores (benchmarks/README.md)."""

SHARED = {**GPU, "batch_size": "16"}
SHARING_PER_GPU = 12
"""The same where one process holds the model for all workers: a detector's."""

SHARING = {"handlers/gpu/server/process.py", "handlers/gpu/hub/process.py"}
"""The program that holds a detector for all workers: its name in archives of today and before."""

MAX_PASSPORT = 1 << 24
DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, ValueError, RuntimeError)
"""What reading the passport of a damaged archive raises."""


def of(store: Path, name: str, gpus: int, cores: int) -> dict[str, str]:
    """The defaults for a store, by field of ``Settings``; archives are checked later.

    Args:
        name: the model that gets the workers.
        gpus: NVIDIA GPUs of the machine.
        cores: CPU cores of the machine.
    """
    records = {record.name: (record, shared) for record, shared in _passports(store)}
    found: dict[str, str] = {}
    if any(record.task == "segmentation" for record, _ in records.values()):
        found |= VOLUMES
    mine, shared = records.get(name, (None, False))
    if gpus and mine is not None and mine.task != "segmentation" and _on_gpu(mine):
        if shared and not own_gpu_process():
            workers = max(1, min(SHARING_PER_GPU * gpus, cores * 3 // 4))
            found |= {**SHARED, "workers": str(workers)}
        else:
            workers = max(1, min(WORKERS_PER_GPU * gpus, cores // 2))
            found |= {**GPU, "workers": str(workers)}
    return found


def gpus() -> int:
    """NVIDIA GPUs of this machine; none where they are hidden from CUDA."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return 0
    return sum(1 for path in Path("/dev").glob("nvidia*") if path.name[len("nvidia") :].isdigit())


def _on_gpu(record: Passport) -> bool:
    accelerated = record.artefacts.get("accelerated")
    return accelerated is not None and accelerated.runtime in GPU_RUNTIMES


def _passports(store: Path) -> Iterator[tuple[Passport, bool]]:
    """Each archive's passport, and whether its workers share a detector; damaged ones are left
    out."""
    for path in store.glob("*.mar"):
        try:
            with zipfile.ZipFile(path) as z, z.open(FILE) as f:
                record = Passport.from_json(f.read(MAX_PASSPORT))
                # The archive's own handlers run it: the oldest share nothing.
                shared = "head" in record.settings and not SHARING.isdisjoint(z.namelist())
            yield record, shared
        except (*DAMAGE, KitError):
            continue
