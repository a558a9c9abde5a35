"""Defaults that depend on what the model store holds."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from handlers.entry import own_gpu_process
from handlers.errors import KitError
from handlers.passport import FILE, Passport
from repack.backends import BACKENDS
from repack.tasks import TASKS

GPU = {"batch_size": "32", "max_batch_delay": "1", "queue": "1000"}
WORKERS_PER_GPU = 6
"""Where the named archive takes pictures and each worker holds it on the GPU: what answered most of
them on an H200 with 16 cores (benchmarks/README.md)."""

SHARED = {**GPU, "batch_size": "16"}
SHARING_PER_GPU = 12
"""The same where one process holds the model for all workers: a detector's."""

SHARING = {"handlers/gpu/server/process.py", "handlers/gpu/hub/process.py"}
"""The program that holds a detector for all workers: its name in archives of today and before."""

REQUEST_MB = "256"
"""MiB of the largest request, where the task does not say."""

KEPT = ("workers", "threads", "batch_size", "max_batch_delay")
"""The settings that a store keeps for a model."""

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
    tuned = kept(store, name, cores)
    for record, _ in records.values():
        for field, value in served(record.task).items():
            found[field] = max(found.get(field, value), value, key=int)
    mine, shared = records.get(name, (None, False))
    if gpus and mine is not None and not _one_at_a_time(mine) and _on_gpu(mine):
        if shared and not own_gpu_process():
            workers = max(1, min(SHARING_PER_GPU * gpus, cores * 3 // 4))
            found |= {**SHARED, "workers": str(workers)}
        else:
            workers = max(1, min(WORKERS_PER_GPU * gpus, cores // 2))
            found |= {**GPU, "workers": str(workers)}
    return found | tuned


def served(task: str) -> dict[str, str]:
    """What a task's archives need of the server; of several the most counts."""
    return {"max_request_mb": REQUEST_MB, **(TASKS[task].server if task in TASKS else {})}


def kept_file(store: Path, name: str) -> Path:
    """Where a store keeps the settings that were found for a model."""
    return store / f"{name}.settings.json"


def kept(store: Path, name: str, cores: int) -> dict[str, str]:
    """What ``qpstest --tune --apply`` found for the model on a machine with as many cores.

    Raises:
        KitError: the file is damaged.
    """
    path = kept_file(store, name)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        same = int(record["cores"]) == cores
        found = {field: str(int(record["settings"][field])) for field in KEPT}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError):
        raise KitError(f"{path} is damaged: remove it, or run qpstest --tune --apply") from None
    return found if same else {}


def gpus() -> int:
    """NVIDIA GPUs of this machine; none where they are hidden from CUDA."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return 0
    return sum(1 for path in Path("/dev").glob("nvidia*") if path.name[len("nvidia") :].isdigit())


def _on_gpu(record: Passport) -> bool:
    accelerated = record.artefacts.get("accelerated")
    backend = BACKENDS.get(accelerated.runtime) if accelerated else None
    return backend is not None and backend.device == "gpu"


def _one_at_a_time(record: Passport) -> bool:
    """Whether a request is a whole piece of work, so that batches and more workers gain nothing."""
    return record.task in TASKS and TASKS[record.task].one_at_a_time


def _passports(store: Path) -> Iterator[tuple[Passport, bool]]:
    """Each archive's passport, and whether its workers share a detector; damaged ones are left
    out."""
    for path in store.glob("*.mar"):
        if not path.is_file():  # opening a pipe would wait for ever
            continue
        try:
            with zipfile.ZipFile(path) as z, z.open(FILE) as f:
                record = Passport.from_json(f.read(MAX_PASSPORT))
                # The archive's own handlers run it: the oldest share nothing.
                shared = "head" in record.settings and not SHARING.isdisjoint(z.namelist())
            yield record, shared
        except (*DAMAGE, KitError):
            continue
