"""Engines built again where an archive is loaded: another TensorRT, another GPU.

An archive packed with ``--rebuild-on-load`` has the model's ONNX file, the recipe, and one input
with the original's answers. The engines go into ``rebuilt/`` in the unpacked archive, beside
TensorRT's timing cache; of several workers one builds and the others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from handlers.artefact import Artefact, Rebuild
from handlers.engines import build, versions
from handlers.errors import KitError, RuntimeUnfit
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
    recipe: Rebuild = artefact.options.rebuild
    source = recipe.strongly_typed if typed else recipe.weakly_typed
    if source is None:
        raise RuntimeUnfit("the archive has no ONNX file for this TensorRT's way of precision")
    key = hashlib.sha256(json.dumps(dict(machine), sort_keys=True).encode()).hexdigest()[:16]
    place = folder / "rebuilt" / f"{artefact.precision_asked}-{key}"
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(place / "lock"):
            if not (place / RECORD).is_file():
                _build_all(place, folder / source, artefact, gpu)
            record = json.loads((place / RECORD).read_text(encoding="utf-8"))
    except OSError as e:
        raise RuntimeUnfit(f"{place}: cannot be written ({e.strerror or e})") from None
    if "error" in record:
        raise RuntimeUnfit(f"building it again failed ({record['error']})")
    found = [place / name for name in record["engines"]]
    for path in found:
        if not path.is_file() or sha256(path) != record["engines"][path.name]:
            raise RuntimeUnfit(f"{path} is not what was built: remove {place}")
    return found


def check(runtime: Runtime) -> None:
    """Compares the rebuilt engines with the original's answers, at every batch size.

    Raises:
        RuntimeUnfit: an answer differs by more than its precision allows.
    """
    recipe: Rebuild = runtime.options.rebuild
    with np.load(runtime.folder / recipe.check) as data:
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
            if not error <= recipe.relative_l2:
                raise RuntimeUnfit(
                    f"the rebuilt engine differs from the original ({name}: relative L2 error "
                    f"{error:.3g}, at most {recipe.relative_l2:g})"
                )


def _relative_l2(want: Any, have: Any) -> float:
    if want.shape != have.shape:
        return float("inf")
    a, b = want.astype(np.float64), have.astype(np.float64)
    return float(np.linalg.norm(b - a) / max(float(np.linalg.norm(a)), 1e-12))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _build_all(place: Path, source: Path, artefact: Artefact, gpu: int) -> None:
    """Builds every engine in a process of its own, whose memory is given back; then the record."""
    recipe: Rebuild = artefact.options.rebuild
    job = {
        "onnx": str(source),
        "precision": artefact.precision_asked,
        "engines": artefact.options.engines,
        "level": recipe.level,
        "workspace": recipe.workspace,
        "ranges": str(source.with_name(recipe.ranges)) if recipe.ranges else None,
        "gpu": gpu,
    }
    (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
    logger.warning("building %d engines for this machine in %s", len(job["engines"]), place)
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "handlers.engines.rebuild", str(place)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    answer = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not answer.startswith("{"):
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        answer = json.dumps({"error": f"exit status {done.returncode}: {last}"})
    temporary = place / f".{RECORD}"
    temporary.write_text(answer, encoding="utf-8")
    temporary.replace(place / RECORD)
    logger.warning("built, or not, in %.0f s: %s", time.monotonic() - begin, answer)


def main(place: Path) -> int:
    """Does the job in ``place``; prints the record's JSON line."""
    job = json.loads((place / "job.json").read_text(encoding="utf-8"))
    record: dict[str, Any] = {"engines": {}}
    try:
        import torch

        torch.cuda.set_device(job["gpu"])
        torch.zeros(1, device="cuda")
        for i, profiles in enumerate(job["engines"]):
            shapes = {k: tuple(tuple(s) for s in v) for k, v in profiles.items()}
            recipe = build.Recipe(
                job["precision"],
                shapes,  # type: ignore[arg-type]
                job["level"],
                job["workspace"],
                versions.Int8.read(Path(job["ranges"]) if job["ranges"] else None),
            )
            built = build.from_onnx(Path(job["onnx"]), recipe, None, place / "timing.cache")
            if built.wished:
                record["wished"] = built.wished
            path = place / f"model-{i}.plan"
            path.write_bytes(built.plan)
            record["engines"][path.name] = sha256(path)
    except Exception as e:  # whatever TensorRT raises, the worker gets one line of it
        first = (str(e).strip().splitlines() or [""])[0]
        record = {"error": first if isinstance(e, KitError) else f"{type(e).__name__}: {first}"}
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
