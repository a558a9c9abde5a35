"""Engines built again where an archive is loaded: another TensorRT, another GPU.

An archive packed with ``--rebuild-on-load`` has the model's ONNX file, how to build it, and one
input with the original's answers. The engines go into ``rebuilt/`` in the unpacked archive, beside
TensorRT's timing cache; of several workers one builds and the others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from handlers.artefact import Artefact, Rebuild
from handlers.engines.build import BuildFailed, Job
from handlers.engines.job import run
from handlers.errors import RuntimeUnfit
from handlers.passport import sha256
from handlers.runtimes.base import Runtime

logger = logging.getLogger(__name__)

RECORD = "engines.json"


def engines(
    folder: Path, artefact: Artefact, machine: Mapping[str, str], typed: bool, gpu: int = 0
) -> list[Path]:
    """The engines for this machine: built by an earlier worker, or built now, once.

    A build that failed is not tried again in the same unpacked archive: every worker would wait
    for it.

    Args:
        machine: as ``versions.machine``.
        typed: whether the installed TensorRT is given strongly typed networks.
        gpu: number of the GPU to build on.

    Raises:
        RuntimeUnfit: the archive has no ONNX file for this TensorRT, the folder cannot be written,
            or the build failed.
    """
    how: Rebuild = artefact.options.rebuild
    source = how.strongly_typed if typed else how.weakly_typed
    if source is None:
        raise RuntimeUnfit("the archive has no ONNX file for this TensorRT's way of precision")
    key = hashlib.sha256(json.dumps(dict(machine), sort_keys=True).encode()).hexdigest()[:16]
    target = folder / "rebuilt" / f"{artefact.precision_asked}-{key}"
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (target / "lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not (target / RECORD).is_file():
                _build_all(target, folder / source, artefact, gpu)
            record = json.loads((target / RECORD).read_text(encoding="utf-8"))
    except OSError as e:
        raise RuntimeUnfit(f"{target}: cannot be written ({e.strerror or e})") from None
    if "error" in record:
        raise RuntimeUnfit(f"building it again failed ({record['error']})")
    found = [target / name for name in record["engines"]]
    for path in found:
        if not path.is_file() or sha256(path) != record["engines"][path.name]:
            raise RuntimeUnfit(f"{path} is not what was built: remove {target}")
    return found


def check(runtime: Runtime) -> None:
    """Compares the rebuilt engines with the original's answers, at every batch size.

    Raises:
        RuntimeUnfit: an answer differs by more than its precision allows.
    """
    how: Rebuild = runtime.options.rebuild
    with np.load(runtime.folder / how.check) as data:
        given = {k[3:]: data[k] for k in data.files if k.startswith("in/")}
        wanted = {k[4:]: data[k] for k in data.files if k.startswith("out/")}
    free = all(isinstance(spec.shape[0], str) for spec in runtime.inputs if spec.shape)
    sizes = runtime.options.batches if free else None
    for batch in sizes or [None]:
        rows = {k: v if batch is None else np.repeat(v[:1], batch, 0) for k, v in given.items()}
        answers = runtime.infer(rows, every=True)
        for name, want in wanted.items():
            whole = want if batch is None else np.repeat(want[:1], batch, 0)
            error = _relative_l2(whole, answers[name])
            if not error <= how.relative_l2:
                raise RuntimeUnfit(
                    f"the rebuilt engine differs from the original ({name}: relative L2 error "
                    f"{error:.3g}, at most {how.relative_l2:g})"
                )


def _relative_l2(want: Any, have: Any) -> float:
    if want.shape != have.shape:
        return float("inf")
    a, b = want.astype(np.float64), have.astype(np.float64)
    return float(np.linalg.norm(b - a) / max(float(np.linalg.norm(a)), 1e-12))


def _build_all(target: Path, source: Path, artefact: Artefact, gpu: int) -> None:
    """Builds every engine, each in a process whose memory is given back; then the record."""
    how: Rebuild = artefact.options.rebuild
    engines = artefact.options.engines
    logger.warning("building %d engines for this machine in %s", len(engines), target)
    begin = time.monotonic()
    record: dict[str, Any] = {"engines": {}}
    try:
        for i, profiles in enumerate(engines):
            out = target / f"model-{i}.plan"
            job = Job(
                onnx=str(source),
                out=str(out),
                precision=artefact.precision_asked,
                profiles=profiles,
                level=how.level,
                workspace=how.workspace,
                timing=str(target / "timing.cache"),
                int8=str(source.with_name(how.ranges)) if how.ranges else "",
                gpu=gpu,
            )
            record["relaxed"] = run(job, target).relaxed or record.get("relaxed", "")
            record["engines"][out.name] = sha256(out)
    except BuildFailed as e:
        record = {"error": str(e)}
    temporary = target / f".{RECORD}"
    temporary.write_text(json.dumps(record), encoding="utf-8")
    temporary.replace(target / RECORD)
    logger.warning("built, or not, in %.0f s: %s", time.monotonic() - begin, record)
