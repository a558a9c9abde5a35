"""Every engine of one candidate: found in the cache, or built, several at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch

from handlers.artefact import Artefact, TensorRTOptions
from handlers.engines import versions
from handlers.engines.build import BuildFailed
from handlers.errors import KitError, RuntimeUnfit
from handlers.passport import sha256
from repack import interrupts
from repack.backends.tensorrt import onnx_file as onnx_for_engine
from repack.backends.tensorrt import reasons
from repack.backends.tensorrt.cache import EngineCache, key
from repack.backends.tensorrt.int8 import by_calibrator, fed, ranges_file
from repack.backends.tensorrt.profiles import fixed
from repack.model import Arrays, GpuModel
from repack.onnx import float_layers as kept_floats
from repack.onnx import instance_norm
from repack.onnx import typed as typed_onnx
from repack.options import GpuOptions, Profiles
from repack.progress import say

CORES_PER_BUILD = 4
"""A build uses about as many; more at once only wait for each other."""

SOURCE, QUANTISED = "engine.onnx", "engine-qdq.onnx"
PLUGINS = "engine-plugins.onnx"
"""In the folder ``work``: the ONNX file that engines are built from, the same with int8 layers, and
with TensorRT's plugins."""


@dataclass(frozen=True)
class Plan:
    """What to build.

    Attributes:
        form: the model.
        via: "onnx" or "torch2trt".
        precision: "f32", "f16", "int8" or "best".
        batches: one engine for each, of fixed size; where empty, one engine of ``profile``.
        profile: least, usual and largest shape per input.
    """

    form: GpuModel
    via: str
    precision: str
    batches: tuple[int, ...]
    profile: Profiles
    options: GpuOptions
    calibration: Sequence[Arrays]


class Engine(NamedTuple):
    """One engine of an artefact: its file, and ``handlers.engines.build.Built.wished``."""

    name: str
    wished: str


def build(plan: Plan, folder: str, stage: Path, work: Path) -> Artefact:
    """Puts the engines into ``stage / folder``.

    Args:
        work: folder for what is not kept; the ONNX file in it is shared by all candidates.

    Raises:
        KitError: no GPU, no TensorRT, or TensorRT does not take the model; by what and why.
    """
    trt = versions.library()
    if not torch.cuda.is_available():
        raise RuntimeUnfit("TensorRT needs an NVIDIA GPU, and this machine has none")
    machine = versions.machine(trt, torch, 0)
    dialect = versions.dialect(trt)
    if plan.precision == "int8" and not plan.calibration:
        raise KitError("int8 needs inputs to calibrate on: add --calibration DIR")
    source = work / SOURCE
    if not source.is_file():
        onnx_for_engine.convert(plan.form, source, work / PLUGINS)
    typed = _typed(plan, source, work, dialect)
    ranges = ranges_file(plan, source, work, dialect)
    profiles = [fixed(plan.form, b) for b in plan.batches] or [plan.profile]

    def engines(file: Path) -> list[Engine]:
        jobs = max(1, (os.cpu_count() or 1) // CORES_PER_BUILD)
        with ThreadPoolExecutor(jobs, "build") as pool:
            found = pool.map(
                lambda p: _one(plan, p, file, ranges, stage / folder, machine, dialect), profiles
            )
            return list(found)

    by_plugin = typed == work / PLUGINS
    try:
        built = engines(typed)
    except BuildFailed as e:
        if not by_plugin:
            raise
        say(f"    note: {e}; trying TensorRT's normalisation layer instead of its plugin")
        built, by_plugin = engines(source), False
        say("    note: normalised by TensorRT's layer, in 32 bits: slower than its plugin")
    wished = sorted({one.wished for one in built} - {""})
    for reason in wished:
        say(
            f"    note: {reason}: layers next to inputs and outputs, which int8 should leave in 16 "
            "bits, may run in it; labelled --samples show what that costs"
        )
    kept = plan.precision == "int8" and not by_calibrator(plan, dialect)
    return Artefact(
        "tensorrt",
        tuple(f"{folder}/{one.name}" for one in built),
        plan.precision,
        {},
        plan.form.output,
        TensorRTOptions(
            outputs=plan.form.outputs,
            batches=plan.batches,
            pixels=plan.form.pixels,
            channels_last=plan.form.channels_last,
            built=machine,
            engines=tuple(profiles),
            via=plan.via,
            plugins=(instance_norm.PLUGIN,) if by_plugin else (),
            float_layers=tuple(kept_floats.ends(onnx.load(source).graph)) if kept else (),
            relaxed=bool(wished),
        ),
    )


def _typed(plan: Plan, source: Path, work: Path, dialect: versions.Dialect) -> Path:
    """The file to build from: for TensorRT 10 and 11 in the types that are to run.

    For 8, with the plugin that normalises 16-bit volumes in the layout of its convolutions.
    """
    if not dialect.typed:
        by_plugin = (plan.precision, plan.via) == ("f16", "onnx") and (work / PLUGINS).is_file()
        return work / PLUGINS if by_plugin else source
    if plan.precision == "f32":
        return source
    if plan.via == "torch2trt":
        raise KitError(f"torch2trt builds no {plan.precision} engine with TensorRT 10: --via onnx")
    target = work / f"engine-{plan.precision}.onnx"
    if not target.is_file():
        if plan.precision == "int8":
            quantised = work / QUANTISED
            typed_onnx.quantised(source, quantised, fed(plan))
            typed_onnx.half(quantised, target)
        else:
            typed_onnx.half(source, target)
    return target


def _one(
    plan: Plan,
    profiles: Profiles,
    source: Path,
    ranges: Path | None,
    folder: Path,
    machine: Mapping[str, str],
    dialect: versions.Dialect,
) -> Engine:
    """Finds or builds one engine, and puts it into ``folder``."""
    options = plan.options
    batch = next(iter(profiles.values()))[1][0]
    name = f"model-b{batch}.plan"
    cache = EngineCache(options.engine_cache)
    calibrated = plan.calibration if ranges or by_calibrator(plan, dialect) else ()
    recipe: dict[str, Any] = {
        "precision": plan.precision,
        "profiles": {k: [list(s) for s in v] for k, v in profiles.items()},
        "level": options.level,
        "workspace": options.workspace_mb << 20,
        "via": plan.via,
    }
    if ranges:
        recipe["int8_ranges"] = sha256(ranges)
    if any(least != most for least, _, most in profiles.values()):
        recipe["shared_profile"] = True
    found = key(source, calibrated, recipe=recipe, machine=dict(machine))
    what = f"{plan.precision} engine for batch {batch} via {plan.via}"
    ready = None if options.rebuild else cache.find(found)
    if ready is None:
        layers = len(onnx.load(source, load_external_data=False).graph.node)
        estimate = cache.estimate(layers, options.level)
        say(f"    building the {what}" + (f", about {estimate:.0f} s" if estimate else ""))
        place = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(machine.values()))
        timing = cache.timing(f"{place}-{plan.precision}-b{batch}")
        work = folder / f"{name}.job"
        work.mkdir(parents=True)
        try:
            seconds, wished = _run(plan, recipe, source, ranges, work, timing, dialect)
            about = {"level": options.level, "layers": layers, "what": what, "wished": wished}
            ready = cache.keep(found, work / name, seconds, about)
            say(f"    the {what} took {seconds:.0f} s")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    else:
        say(f"    the {what} was built before: {ready}")
    shutil.copyfile(ready, folder / name)
    return Engine(name, cache.about(found).get("wished", ""))


def _run(
    plan: Plan,
    recipe: Mapping[str, Any],
    source: Path,
    ranges: Path | None,
    work: Path,
    timing: Path,
    dialect: versions.Dialect,
) -> tuple[float, str]:
    """Runs the job's process; returns its seconds, and ``handlers.engines.build.Built.wished``."""
    name = f"model-b{next(iter(recipe['profiles'].values()))[1][0]}.plan"
    job: dict[str, Any] = {
        **recipe,
        "onnx": str(source),
        "module": None,
        "outputs": list(plan.form.outputs),
        "calibration": None,
        "ranges": str(ranges) if ranges else None,
        "timing": str(timing),
        "out": str(work / name),
    }
    if plan.via == "torch2trt":
        job["module"] = str(work / "module.pt")
        torch.save(plan.form.module, job["module"])
    if by_calibrator(plan, dialect):
        job["calibration"] = str(work / "calibration.npz")
        arrays = {
            f"{name}/{i}": value
            for i, given in enumerate(plan.calibration)
            for name, value in plan.form.feed(given).items()
        }
        np.savez(job["calibration"], **arrays)  # type: ignore[arg-type]
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "repack.backends.tensorrt.job", str(work / "job.json")]
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
    ) as process:
        while True:
            try:
                out, err = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                if interrupts.pending():
                    process.kill()
    last = (out.strip().splitlines() or [""])[-1]
    answer = json.loads(last) if last.startswith("{") else {}
    if "seconds" in answer:
        return float(answer["seconds"]), str(answer["wished"])
    reason = answer.get("error") or reasons.ended(process.returncode, err)
    if plan.via == "onnx":
        reason = reasons.with_node(source, reason)
    raise BuildFailed(f"TensorRT {plan.precision} via {plan.via}: {reason}")
