"""The programs that run a model, behind one interface.

A runtime is made from an archive's folder without touching the device, and loads the model when
it is activated. Its library is imported only then: a worker holds just the one it uses.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from handlers import heads
from handlers.artefact import Artefact
from handlers.errors import ArchiveError, RuntimeMissing, RuntimeUnfit
from handlers.heads import Head
from handlers.passport import Passport, TensorSpec
from handlers.runtimes.base import Runtime

logger = logging.getLogger(__name__)

RUNTIMES = {
    "torchscript": "handlers.runtimes.torchscript:TorchScript",
    "onnxruntime": "handlers.runtimes.onnxruntime_:OnnxRuntime",
    "openvino": "handlers.runtimes.openvino_:OpenVino",
    "tensorrt": "handlers.runtimes.tensorrt_:TensorRT",
    "aotinductor": "handlers.runtimes.aotinductor:AotInductor",
    "torchscript-cuda": "handlers.runtimes.torchscript_cuda:TorchScriptCuda",
}


@dataclass(frozen=True)
class Loaded:
    """An activated runtime, the artefact it runs, and why it is not the accelerated one, if so."""

    runtime: Runtime
    artefact: Artefact
    fallback: str | None = None


def make(
    folder: Path,
    inputs: tuple[TensorSpec, ...],
    artefact: Artefact,
    threads: int,
    gpu: int | None = None,
    head: Head | None = None,
    foreign: Mapping[str, str] | None = None,
) -> Runtime:
    """The runtime for one artefact, not yet activated.

    Args:
        gpu: number of the GPU to use, where the runtime uses one; None for the first.
        head: what ends the model, where it is a detector.
        foreign: the passport's ``runtimes``.

    Raises:
        ArchiveError: a runtime that this kit does not know, one that is called otherwise, or whose
            options are not those of the artefact.
    """
    name = artefact.runtime
    runtime = _runtime(name) if name in RUNTIMES else _foreign(folder, name, foreign or {})
    if runtime.name != name:
        raise ArchiveError(
            f"the archive asks for runtime {name!r}, and {runtime.__qualname__} is {runtime.name!r}"
        )
    return runtime(folder, artefact, inputs, threads, gpu, head)


def of(
    folder: Path, passport: Passport, wanted: str, threads: int, gpu: int | None = None
) -> Runtime:
    """``make`` for an artefact of a passport.

    Raises:
        ArchiveError: no such artefact, or as ``make``.
    """
    if wanted not in passport.artefacts:
        raise ArchiveError(f"no artefact {wanted!r}; it holds {', '.join(passport.artefacts)}")
    artefact, ends = passport.artefacts[wanted], heads.of(passport.settings)
    return make(folder, passport.inputs, artefact, threads, gpu, ends, passport.runtimes)


def _runtime(name: str) -> type[Runtime]:
    module, _, attribute = RUNTIMES[name].partition(":")
    found: type[Runtime] = getattr(importlib.import_module(module), attribute)
    return found


def _foreign(folder: Path, name: str, told: Mapping[str, str]) -> type[Runtime]:
    """A runtime that the archive brings along, from its own file there.

    Raises:
        ArchiveError: it brings none of this name.
        RuntimeMissing: what the file imports is not installed.
    """
    if name not in told:
        known = ", ".join([*RUNTIMES, *told])
        raise ArchiveError(f"the archive asks for runtime {name!r}; known: {known}")
    module, _, attribute = told[name].partition(":")
    path = folder / f"{module.replace('.', '/')}.py"
    spec = importlib.util.spec_from_file_location(module, path)
    if not module.replace(".", "_").isidentifier() or spec is None or not path.is_file():
        raise ArchiveError(f"runtime {name!r} is to be {told[name]!r}: no such file in the archive")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    try:
        spec.loader.exec_module(loaded)  # type: ignore[union-attr]
    except ImportError as e:
        raise RuntimeMissing(e.name or module, e) from None
    found = getattr(loaded, attribute, None)
    if not (isinstance(found, type) and issubclass(found, Runtime)):
        raise ArchiveError(f"runtime {name!r} is to be {told[name]!r}, which is no runtime")
    return found


def load(
    folder: Path,
    passport: Passport,
    wanted: str,
    threads: int,
    gpu: int | None = None,
    shared: bool = False,
) -> Loaded:
    """Activates the wanted artefact, or the portable one where this machine cannot run that.

    Args:
        wanted: a key of ``passport.artefacts``.
        threads: how many threads the runtime may use.
        gpu: number of the GPU that the server gave this worker, if any.
        shared: a detector on a GPU runs in a process that all workers share.

    Raises:
        ArchiveError: no such artefact.
        RuntimeUnfit: its library or its GPU is missing, and there is no portable module.
    """
    try:
        runtime = of(folder, passport, wanted, threads, gpu)
        artefact = runtime.artefact
        if shared and runtime.on_gpu and runtime.head is not None and runtime.head.shares:
            runtime = _shared(runtime, passport, wanted)
        else:
            runtime.activate()
    except RuntimeUnfit as e:
        if wanted == "portable" or "portable" not in passport.artefacts:
            raise
        runtime = of(folder, passport, "portable", threads)
        runtime.activate()
        said = f"{e}; the portable {runtime.name} module serves instead"
        return Loaded(runtime, runtime.artefact, said)
    if runtime.note:
        return Loaded(runtime, artefact, runtime.note)
    asked = artefact.precision_found.get("label", runtime.precision)
    if runtime.precision != asked:
        note = f"packed as {asked}, but this machine runs it in {runtime.precision}"
        return Loaded(runtime, artefact, note)
    return Loaded(runtime, artefact)


def _shared(own: Runtime, passport: Passport, wanted: str) -> Runtime:
    """The runtime activated in a process for all workers, or here where there can be none."""
    from handlers.gpu.server.starting import NoServer
    from handlers.runtimes.shared import Shared

    try:
        runtime = Shared(own, passport, wanted)
        runtime.activate()
    except NoServer as e:
        logger.warning("this worker holds the model on the GPU itself: %s", e)
        own.activate()
        return own
    return runtime
