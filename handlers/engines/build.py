"""An ONNX file or a filled network -> a serialised engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from handlers.engines import versions
from handlers.errors import KitError

logger = logging.getLogger(__name__)

Shape = tuple[int, ...]

LEVELS = range(6)
"""TensorRT's builder optimisation levels: how long it looks for faster kernels."""


Profiles = Mapping[str, tuple[Shape, Shape, Shape]]
"""An optimization profile: min, opt and max shape by input name."""


@dataclass(frozen=True)
class EngineSpec:
    """How an engine is built.

    Attributes:
        precision: "f32", "f16", "int8", or "best" (whatever is fastest).
        profiles: the shapes that it takes.
        level: builder optimisation level, 0 to 5.
        workspace: bytes of device memory that a kernel may work in.
        int8: for int8 with TensorRT 8; where it has no ranges, they are in the file, or a
            calibrator finds them.
    """

    precision: str
    profiles: Profiles
    level: int = 3
    workspace: int = 4 << 30
    int8: versions.Int8 = field(default_factory=versions.Int8)


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


def from_onnx(
    source: Path, spec: EngineSpec, calibrator: Any = None, timing_cache: Path | None = None
) -> Built:
    """Builds an engine from an ONNX file; types that no kernel has are demanded no more.

    Raises:
        BuildFailed: an operator that TensorRT does not know, by its node; too little workspace or
            memory; a profile that does not fit.
        RuntimeMissing: no TensorRT.
    """
    trt = versions.library()
    parsers: list[Any] = []

    def build_once(spec: EngineSpec) -> bytes:
        log = Log(trt)

        def fill(network: Any, config: Any) -> None:
            parser = trt.OnnxParser(network, log.sink)
            parsers.append(parser)  # the network keeps pointers into it
            if not parser.parse_from_file(str(source)):
                raise BuildFailed(_parse_error(parser))

        return build(trt, log, fill, spec, calibrator, timing_cache)

    try:
        return Built(build_once(spec))
    except BuildFailed as e:
        if not spec.int8.float_tensors or NO_KERNEL not in str(e):
            raise
        relaxed = replace(spec, int8=replace(spec.int8, float_tensors=frozenset()))
        return Built(build_once(relaxed), str(e))


def build(
    trt: Any,
    log: Log,
    fill: Callable[[Any, Any], None],
    spec: EngineSpec,
    calibrator: Any = None,
    timing_cache: Path | None = None,
) -> bytes:
    """Builds the network that ``fill(network, config)`` writes into an empty one.

    No kernels of cuBLAS and cuDNN are used (TensorRT 10 has none by default): a worker then needs
    neither library, which costs hundreds of megabytes each.
    """
    dialect = versions.dialect(trt)
    builder = trt.Builder(log.sink)
    network = dialect.network(builder)
    config = builder.create_builder_config()
    fill(network, config)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace)
    config.builder_optimization_level = spec.level
    config.set_tactic_sources(0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    dialect.ask(config, network, spec.precision, calibrator, spec.int8)
    profile = builder.create_optimization_profile()
    for name, shapes in spec.profiles.items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    if any(least != most for least, _, most in spec.profiles.values()):
        dialect.share(config)
    cache = _timing(config, timing_cache)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BuildFailed(log.reason("TensorRT gave no engine and no reason"))
    if timing_cache is not None:
        written = timing_cache.with_name(f".{timing_cache.name}.{os.getpid()}")
        written.write_bytes(bytes(memoryview(cache.serialize())))
        written.replace(timing_cache)  # whole, because another build may be reading it
    return bytes(memoryview(engine))


def _timing(config: Any, path: Path | None) -> Any:
    data = path.read_bytes() if path is not None and path.is_file() else b""
    cache = config.create_timing_cache(data) or config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    return cache


def _parse_error(parser: Any) -> str:
    found = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        found.append(f"node {error.node()}: {' '.join(error.desc().split())}")
    return "TensorRT's ONNX parser: " + ("; ".join(found[:3]) or "no reason given")
