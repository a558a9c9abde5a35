"""From converted artefacts to a checked archive in the model store."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from handlers.artefact import Artefact
from handlers.errors import KitError
from handlers.passport import Passport
from handlers.runtimes import RUNTIMES
from repack import archive, interrupts
from repack.backends import BACKENDS
from repack.model import Model
from repack.tasks import TASKS

LIBRARIES = ("torch", "onnx", "numpy", "torchserve")
"""Distributions whose versions every passport records, beside those of the backends."""

ALONE_S = 900
"""Seconds that the finished archive may take to load and answer once."""

CLEAN_START = (
    "import runpy, sys; sys.path.insert(0, sys.argv[1]); "
    "runpy.run_module('handlers.selfcheck', run_name='__main__')"
)


def passport(
    model: Model,
    name: str,
    version: str,
    artefacts: dict[str, Artefact],
    gate: Mapping[str, Any],
) -> Passport:
    """The archive's record, without file hashes yet; nothing in it changes from run to run."""
    source = model.source
    return Passport(
        name=name,
        version=version,
        task=model.task,
        handler=TASKS[model.task].handler,
        source={
            "file": source.path.name,
            "sha256": source.sha256,
            "family": source.family,
            "network": source.network,
            **({"says": says} if (says := source.told.facts) else {}),
        },
        inputs=model.inputs,
        outputs=model.outputs,
        labels=source.labels,
        settings=model.settings,
        artefacts=artefacts,
        gate=dict(gate),
        versions={"python": platform.python_version()} | _installed(),
        runtimes=foreign_runtimes(a.runtime for a in artefacts.values()),
    )


def foreign_runtimes(names: Iterable[str]) -> dict[str, str]:
    """ "module:Class" of each runtime that is not the kit's own: its module is packed, too."""
    return {name: BACKENDS[name].runtime for name in names if name not in RUNTIMES}


def _installed() -> dict[str, str]:
    found = {}
    names = {*LIBRARIES, *(p for backend in BACKENDS.values() for p in backend.packages)}
    for name in sorted(names):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def require_writable(store: Path) -> None:
    """Tries to write where the store is or will be, before any long step; leaves nothing there.

    Raises:
        KitError: it cannot be written.
    """
    there = next(p for p in (store, *store.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as e:
        raise archive.disk_error(e, store) from None


def write(stage: Path, record: Passport, store: Path, sample: Path) -> Path:
    """Packs the stage, opens the result again from an empty folder, and puts it into the store.

    Args:
        stage: folder with the artefacts' files.
        sample: an input that the finished archive must answer.

    Raises:
        KitError: the disk is full or not writable, or the archive does not work on its own; an
            older archive of the same name stays.
    """
    target = store / f"{record.name}.mar"
    archive.stage_handlers(stage)
    for reference in (record.handler, *record.runtimes.values()):
        archive.stage_module(stage, reference)
    try:
        archive.finish_stage(stage, record)
        with archive.Draft(target) as draft:
            archive.pack(stage, draft.path)
            _try_alone(draft.path, sample)
            interrupts.check()
            draft.commit()
    except OSError as e:
        raise archive.disk_error(e, store) from None
    return target


def _try_alone(packed: Path, sample: Path) -> None:
    """Unpacks the archive into an empty folder and answers one input in a clean process."""
    with tempfile.TemporaryDirectory(prefix="repack-check-") as empty:
        folder = Path(empty) / "archive"
        archive.unpack(packed, folder)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        done = subprocess.run(
            [sys.executable, "-I", "-c", CLEAN_START, str(folder), str(sample)],
            capture_output=True,
            text=True,
            cwd=empty,
            env=environment,
            check=False,
            timeout=ALONE_S,
        )
        last = (done.stdout.strip().splitlines() or ["{}"])[-1]
        report = json.loads(last) if last.startswith("{") else {}
        reason = report.get("error") or (done.stderr.strip().splitlines() or ["no output"])[-1]
        if done.returncode or report.get("status") != 200:
            raise KitError(f"the finished archive does not work on its own ({reason}): not kept")
        if Path(report["handlers"]).resolve() != (folder / "handlers").resolve():
            raise KitError("the finished archive ran code from outside itself: not kept")
        if report["runtime"]["fallback"]:
            raise KitError(f"the finished archive falls back here: {report['runtime']['fallback']}")
