"""Defaults that depend on what the model store holds."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handlers.entry import own_gpu_process
from handlers.errors import KitError
from handlers.runtimes import ANCHORS

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

HUB = "handlers/gpu/server/process.py"

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
    records = {record["name"]: record for record in _passports(store)}
    found: dict[str, str] = {}
    tuned = kept(store, name, cores)
    if any(record["task"] == "segmentation" for record in records.values()):
        found |= VOLUMES
    mine = records.get(name, {"task": None, "runtime": None})
    if gpus and mine["task"] != "segmentation" and mine["runtime"] in GPU_RUNTIMES:
        if mine["shared"] and not own_gpu_process():
            workers = max(1, min(SHARING_PER_GPU * gpus, cores * 3 // 4))
            found |= {**SHARED, "workers": str(workers)}
        else:
            workers = max(1, min(WORKERS_PER_GPU * gpus, cores // 2))
            found |= {**GPU, "workers": str(workers)}
    return found | tuned


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


def _passports(store: Path) -> Iterator[dict[str, Any]]:
    """Name, task and accelerated runtime of each archive, and whether workers share it; damaged
    archives are left out."""
    for path in store.glob("*.mar"):
        try:
            with zipfile.ZipFile(path) as z, z.open("passport.json") as f:
                record = json.loads(f.read(MAX_PASSPORT))
            form = record.get("artefacts", {}).get("accelerated", {})
            yield {
                "name": str(record["name"]),
                "task": record["task"],
                "runtime": form.get("runtime"),
                # The archive's own handlers run it: those of before know no hub.
                "shared": ANCHORS in form.get("options", {}) and HUB in z.namelist(),
            }
        except (*DAMAGE, TypeError, AttributeError):
            continue
