"""An ONNX file, or what a function writes -> a serialised engine."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from handlers.engines import versions
from handlers.errors import KitError

logger = logging.getLogger(__name__)

Shape = tuple[int, ...]
Profiles = Mapping[str, tuple[Shape, Shape, Shape]]
"""An optimization profile: min, opt and max shape by input name."""

LEVELS = range(6)
"""TensorRT's builder optimisation levels: how long it looks for faster kernels."""


@dataclass(frozen=True)
class Job:
    """One engine to build; what a building process's JSON file holds (``handlers.engines.job``).

    Attributes:
        onnx: the model's file.
        out: where the engine goes.
        precision: "f32", "f16", "int8", or "best" (whatever is fastest).
        profiles: the shapes that it takes.
        level: builder optimisation level, 0 to 5.
        workspace: bytes of device memory that a kernel may work in.
        timing: file of TensorRT's kernel timings, read where it is there and written; "" for none.
        int8: file that ``versions.Int8`` reads; "" where a calibrator or the ONNX file has ranges.
        gpu: number of the GPU to build on.
        network: "module:function", called with TensorRT, a ``Log`` and the job: gives what fills an
            empty network, in place of the ONNX file; "" for that file.
        calibrator: "module:function", called with TensorRT and the job: gives TensorRT 8's
            calibrator; "" for none.
        module, outputs, calibration: for these two: the module's file, the names of its outputs,
            and the file of the inputs to calibrate on.
    """

    onnx: str
    out: str
    precision: str
    profiles: Profiles
    level: int = 3
    workspace: int = 4 << 30
    timing: str = ""
    int8: str = ""
    gpu: int = 0
    network: str = ""
    calibrator: str = ""
    module: str = ""
    outputs: tuple[str, ...] = ()
    calibration: str = ""

    @classmethod
    def read(cls, path: Path) -> Job:
        """From its JSON file."""
        told = json.loads(path.read_text(encoding="utf-8"))
        profiles = {k: tuple(map(tuple, shapes)) for k, shapes in told.pop("profiles").items()}
        return cls(profiles=profiles, **told)  # type: ignore[arg-type]


class Log:
    """Keeps TensorRT's errors, which its Python calls do not raise, and passes warnings on."""

    def __init__(self, trt: Any):
        self.errors: list[str] = []
        self.sink = versions.sink(trt, self._error, lambda said: logger.info("TensorRT: %s", said))

    def _error(self, message: str) -> None:
        self.errors.append(message)
        logger.debug("TensorRT: %s", message)

    def reason(self, otherwise: str) -> str:
        """The last error in one line."""
        return " ".join(self.errors[-1].split()) if self.errors else otherwise


class BuildFailed(KitError):
    """TensorRT does not build this network; one line that says why."""


class Built(NamedTuple):
    """An engine.

    Attributes:
        engine: serialised.
        relaxed: why the types that int8 demands were only preferred; "" where they were obeyed.
    """

    engine: bytes
    relaxed: str = ""


NO_KERNEL = "implementation"
"""In what TensorRT says where it has no kernel that obeys: "could not find any implementation",
"no implementation of layer ... obeys"."""


def build(job: Job) -> Built:
    """Builds an engine, here; types that no kernel has are demanded no more.

    Raises:
        BuildFailed: an operator that TensorRT does not know, by its node; too little workspace or
            memory; a profile that does not fit. torch2trt raises other types, too.
        RuntimeMissing: no TensorRT.
    """
    if job.gpu:
        import torch

        torch.cuda.set_device(job.gpu)
        torch.zeros(1, device="cuda")  # TensorRT takes the context that is current
    trt = versions.library()
    int8 = versions.Int8.read(Path(job.int8) if job.int8 else None)
    calibrator = _function(job.calibrator)(trt, job) if job.calibrator else None
    try:
        return Built(_build(trt, job, int8, calibrator))
    except BuildFailed as e:
        if not int8.float_tensors or NO_KERNEL not in str(e):
            raise
        relaxed = replace(int8, float_tensors=frozenset())
        return Built(_build(trt, job, relaxed, calibrator), str(e))


def _build(trt: Any, job: Job, int8: versions.Int8, calibrator: Any) -> bytes:
    """No kernels of cuBLAS and cuDNN are used (TensorRT 10 has none by default): a worker then
    needs neither library, which costs hundreds of megabytes each."""
    log = Log(trt)
    dialect = versions.dialect(trt)
    builder = trt.Builder(log.sink)
    network = dialect.network(builder)
    config = builder.create_builder_config()
    # The network keeps pointers into what fills it: neither may go before the engine is built.
    if job.network:
        fill = _function(job.network)(trt, log, job)
        fill(network, config)
    else:
        parser = trt.OnnxParser(network, log.sink)
        if not parser.parse_from_file(job.onnx):
            raise BuildFailed(_parse_error(parser))
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace)
    config.builder_optimization_level = job.level
    config.set_tactic_sources(0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    dialect.ask(config, network, job.precision, calibrator, int8)
    profile = builder.create_optimization_profile()
    for name, shapes in job.profiles.items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    if any(low != high for low, _, high in job.profiles.values()):
        dialect.share(config)
    timing = Path(job.timing) if job.timing else None
    known = timing.read_bytes() if timing and timing.is_file() else b""
    cache = config.create_timing_cache(known) or config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BuildFailed(log.reason("TensorRT gave no engine and no reason"))
    if timing:
        written = timing.with_name(f".{timing.name}.{os.getpid()}")
        written.write_bytes(bytes(memoryview(cache.serialize())))
        written.replace(timing)  # whole, because another build may be reading it
    return bytes(memoryview(engine))


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def _parse_error(parser: Any) -> str:
    found = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        found.append(f"node {error.node()}: {' '.join(error.desc().split())}")
    return "TensorRT's ONNX parser: " + ("; ".join(found[:3]) or "no reason given")
