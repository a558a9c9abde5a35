"""Every engine of one candidate: found in the cache, or built, several at once."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch

from handlers.artefact import Artefact, TensorRTOptions
from handlers.engines import versions
from handlers.engines.build import BuildFailed, Job, Profiles
from handlers.engines.job import KILLED, Answer, run
from handlers.errors import KitError, RuntimeUnfit
from handlers.passport import sha256
from repack import interrupts
from repack.backends.tensorrt import onnx_file, reasons
from repack.backends.tensorrt.cache import EngineCache, key
from repack.backends.tensorrt.onnx_file import PLUGINS, SOURCE
from repack.backends.tensorrt.request import EngineRequest
from repack.onnx import float_layers, instance_norm
from repack.progress import say

CORES_PER_BUILD = 4
"""A build uses about as many; more at once only wait for each other."""


def build(request: EngineRequest, folder: str, stage: Path, work: Path) -> Artefact:
    """Puts the engines into ``stage / folder``.

    Args:
        work: folder for what is thrown away; the ONNX file in it is shared by all candidates.

    Raises:
        KitError: no GPU, no TensorRT, or TensorRT does not take the model; by what and why.
    """
    trt = versions.library()
    if not torch.cuda.is_available():
        raise RuntimeUnfit("TensorRT needs an NVIDIA GPU, and this machine has none")
    machine = versions.machine(trt, torch, 0)
    dialect = versions.dialect(trt)
    if request.precision == "int8" and not request.calibration:
        raise KitError("int8 needs inputs to calibrate on: add --calibration DIR")
    source = work / SOURCE
    if not source.is_file():
        onnx_file.convert(request.model, source, work / PLUGINS)
    # 8 normalises 16-bit volumes by its plugin in the layout of its convolutions.
    by_plugin = not dialect.typed and (request.precision, request.via) == ("f16", "onnx")
    by_plugin = by_plugin and (work / PLUGINS).is_file()
    if dialect.typed:
        if request.via == "torch2trt" and request.precision != "f32":
            raise KitError(
                f"torch2trt builds no {request.precision} engine with TensorRT 10: --via onnx"
            )
        source = onnx_file.in_types(request, work)
    calibrated = request.by_calibrator(dialect)
    told = request.precision == "int8" and not calibrated
    int8 = onnx_file.int8_ranges(request, work) if told and not dialect.typed else None
    builder = Builder(request, stage / folder, machine, int8, calibrated)
    try:
        built = builder.engines(work / PLUGINS if by_plugin else source)
    except BuildFailed as e:
        if not by_plugin:
            raise
        say(f"    note: {e}; trying TensorRT's normalisation layer instead of its plugin")
        built, by_plugin = builder.engines(source), False
        say("    note: normalised by TensorRT's layer, in 32 bits: slower than its plugin")
    relaxed = sorted({one.relaxed for one in built} - {""})
    for reason in relaxed:
        say(
            f"    note: {reason}: layers next to inputs and outputs, which int8 should leave in 16 "
            "bits, may run in it; labelled --samples show what that costs"
        )
    return Artefact(
        "tensorrt",
        tuple(f"{folder}/{one.name}" for one in built),
        request.precision,
        {},
        request.model.output,
        TensorRTOptions(
            outputs=request.model.outputs,
            batches=request.batches,
            pixels=request.model.pixels,
            channels_last=request.model.channels_last,
            built=machine,
            engines=tuple(request.profiles()),
            via=request.via,
            plugins=(instance_norm.PLUGIN,) if by_plugin else (),
            float_layers=tuple(float_layers.ends(onnx.load(work / SOURCE).graph)) if told else (),
            relaxed=bool(relaxed),
        ),
    )


BY_TORCH2TRT = "repack.backends.tensorrt.from_module:by_torch2trt"
CALIBRATOR = "repack.backends.tensorrt.calibrator:calibrator"
"""For ``handlers.engines.build.Job``."""


class Engine(NamedTuple):
    """One engine of an artefact: its file, and ``handlers.engines.build.Built.relaxed``."""

    name: str
    relaxed: str


@dataclass(frozen=True)
class Builder:
    """Builds a request's engines, or finds them.

    Attributes:
        folder: where they go.
        machine: as ``versions.machine``.
        int8: the file that ``versions.Int8`` reads, for TensorRT 8.
        calibrated: whether TensorRT 8's calibrator looks for int8 ranges.
    """

    request: EngineRequest
    folder: Path
    machine: Mapping[str, str]
    int8: Path | None
    calibrated: bool

    def engines(self, source: Path) -> list[Engine]:
        """Each engine of the request, from an ONNX file.

        Raises:
            BuildFailed: TensorRT does not build one; why, with the node.
        """
        at_once = max(1, (os.cpu_count() or 1) // CORES_PER_BUILD)
        with ThreadPoolExecutor(at_once, "build") as pool:
            return list(pool.map(lambda p: self.engine(source, p), self.request.profiles()))

    def engine(self, source: Path, profiles: Profiles) -> Engine:
        """One engine, built or from the cache."""
        request, options = self.request, self.request.options
        batch = next(iter(profiles.values()))[1][0]
        name = f"model-b{batch}.plan"
        cache = EngineCache(options.engine_cache)
        where = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(self.machine.values()))
        work = self.folder / f"{name}.job"
        job = Job(
            onnx=str(source),
            out=str(work / name),
            precision=request.precision,
            profiles=profiles,
            level=options.level,
            workspace=options.workspace_mb << 20,
            timing=str(cache.timing(f"{where}-{request.precision}-b{batch}")),
            int8=str(self.int8 or ""),
            network=BY_TORCH2TRT if request.via == "torch2trt" else "",
            calibrator=CALIBRATOR if self.calibrated else "",
            module=str(work / "module.pt"),
            outputs=request.model.outputs,
            calibration=str(work / "calibration.npz"),
        )
        told = ("precision", "profiles", "level", "workspace")
        described = {"via": request.via, **{field: getattr(job, field) for field in told}}
        if self.int8:
            described["int8_ranges"] = sha256(self.int8)
        if any(low != high for low, _, high in profiles.values()):
            described["shared_profile"] = True
        used = request.calibration if self.int8 or self.calibrated else ()
        wanted = key(source, used, recipe=described, machine=dict(self.machine))
        what = f"{request.precision} engine for batch {batch} via {request.via}"
        found = None if options.rebuild else cache.find(wanted)
        if found is None:
            layers = len(onnx.load(source, load_external_data=False).graph.node)
            estimate = cache.estimate(layers, options.level)
            say(f"    building the {what}" + (f", about {estimate:.0f} s" if estimate else ""))
            work.mkdir(parents=True)
            try:
                done = self.build(job, work)
                about = {"level": options.level, "layers": layers, "what": what}
                about["relaxed"] = done.relaxed
                found = cache.keep(wanted, work / name, done.seconds, about)
                say(f"    the {what} took {done.seconds:.0f} s")
            finally:
                shutil.rmtree(work, ignore_errors=True)
        else:
            say(f"    the {what} was built before: {found}")
        shutil.copyfile(found, self.folder / name)
        known = cache.about(wanted)
        return Engine(name, known.get("relaxed") or known.get("wished", ""))  # its older name

    def build(self, job: Job, work: Path) -> Answer:
        """Builds one engine in a process of its own; what it reads goes into ``work``."""
        request = self.request
        if job.network:
            torch.save(request.model.module, job.module)
        if job.calibrator:
            rows = enumerate(request.fed())
            arrays = {f"{name}/{i}": value for i, row in rows for name, value in row.items()}
            np.savez(job.calibration, **arrays)  # type: ignore[arg-type]
        try:
            return run(job, work, interrupts.pending)
        except BuildFailed as e:
            reason = str(e) if job.network else reasons.with_node(Path(job.onnx), str(e))
            if reason == KILLED:
                reason += "; fewer sizes in --batch build side by side with less"
            raise BuildFailed(f"TensorRT {request.precision} via {request.via}: {reason}") from None
